//! Files that are often found where a safetensors file belongs, recognised by how they begin.

use crate::error::Error;
use std::io::Read;

/// As many bytes as it takes to tell.
const HEAD: u64 = 128;

/// What a file is that begins with `start` and goes on with `rest`, as an error that says how to get the right one.
pub(super) fn recognise(start: &[u8], rest: impl Read, file: &str) -> Option<Error> {
    let mut head = start.to_vec();
    // What cannot be read cannot be recognised; the caller has an error of its own.
    let _ = rest.take(HEAD).read_to_end(&mut head);
    let begins = |with: &[u8]| head.starts_with(with);
    let text = || String::from_utf8_lossy(&head).trim_start().to_ascii_lowercase();
    if begins(b"version https://git-lfs") {
        let advice = "run `git lfs pull` where it was cloned, or download the file itself";
        return Some(Error::corrupt(format!("{file}: a Git LFS pointer, which stands for the file and is not it: {advice}")));
    }
    if begins(b"PK\x03\x04") || (head.first() == Some(&0x80) && head.get(1).is_some_and(|v| (2..=5).contains(v))) {
        let advice = "convert it with save_pretrained(..., safe_serialization=True) or safetensors.torch.save_file";
        return Some(Error::unsupported(format!("{file}: a pickle of PyTorch, not a safetensors file: {advice}")));
    }
    if begins(b"GGUF") {
        return Some(Error::unsupported(format!("{file}: a GGUF file, not a safetensors file")));
    }
    if text().starts_with("<!doctype html") || text().starts_with("<html") {
        return Some(Error::corrupt(format!("{file}: a web page, not a safetensors file: the download went wrong")));
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::Status;
    use crate::io::TensorFile;

    #[test]
    fn what_is_no_safetensors_file_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 143180996\n";
        for (bytes, status, word) in [
            (pointer.as_bytes(), Status::CorruptFile, "git lfs pull"),
            (&pointer.as_bytes()[..40], Status::CorruptFile, "LFS pointer"),
            (b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00archive/data.pkl", Status::Unsupported, "pickle"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", Status::Unsupported, "pickle"),
            (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", Status::Unsupported, "GGUF"),
            (b"\n<!DOCTYPE HTML>\n<title>404</title>", Status::CorruptFile, "web page"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xffsomething", Status::CorruptFile, "not a safetensors file"),
            (b"", Status::CorruptFile, "too short"),
        ] {
            let error = TensorFile::from_bytes(bytes, "w.safetensors").map(drop).unwrap_err();
            assert_eq!(error.status, status, "{error}");
            assert!(error.message.starts_with("w.safetensors: ") && error.message.contains(word), "{error}");
        }
    }
}
