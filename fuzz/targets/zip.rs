//! Zip archives: what is unpacked has the checksum that was packed, and is what the zip crate unpacks where it unpacks it.
#![no_main]

use fewstep::io::zip::Archive;
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;
use std::io::{Cursor, Read};

fuzz_target!(|data: &[u8]| {
    let mut unpacked = vec![];
    within(&Cost { base: 512 << 10, factor: 8, failing: true }, data, || {
        let Some(mut archive) = check(Archive::open(Cursor::new(data), data.len() as u64)) else { return };
        for index in 0..archive.names().count().min(4) {
            let size = archive.size(index);
            let name = archive.names().nth(index).expect("a name").to_vec();
            let Some(mut reader) = check(archive.read(index)) else { continue };
            let (mut crc, mut left, mut piece) = (crc32fast::Hasher::new(), size.min(1 << 20), [0u8; 1000]);
            while left > 0 {
                let n = left.min(1000) as usize;
                if check(reader.read_exact(&mut piece[..n])).is_none() {
                    break;
                }
                crc.update(&piece[..n]);
                left -= n as u64;
            }
            if left == 0 && size <= 1 << 20 && check(reader.finish()).is_some() {
                unpacked.push((name, size, crc.finalize()));
            }
        }
    });
    let Ok(mut theirs) = ::zip::ZipArchive::new(Cursor::new(data)) else { return };
    for (name, size, crc) in unpacked {
        let Ok(name) = String::from_utf8(name) else { continue };
        let Ok(entry) = theirs.by_name(&name) else { continue };
        let mut bytes = vec![];
        if entry.take(2 << 20).read_to_end(&mut bytes).is_ok() && crc32fast::hash(&bytes) == crc {
            assert_eq!(bytes.len() as u64, size, "{name}");
        }
    }
});
