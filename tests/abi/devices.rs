//! What a host can ask of devices before it makes a runtime, and of a runtime.

use crate::ffi_common;
use crate::ffi_common::Api;
use fewstep::backend::cpu::Isa;
use fewstep::backend::cpu::kernels::bf16::Kernel;
use fewstep::ffi::device::*;
use fewstep::ffi::precision::*;
use fewstep::ffi::runtime::*;
use std::ffi::{CStr, c_char, c_void};

const INVALID: i32 = 1;

#[test]
fn there_is_one_cpu() {
    let api = Api::load();
    assert_eq!(api.device_count(FEWSTEP_DEVICE_CPU), 1);
    let info = api.device_info(FEWSTEP_DEVICE_CPU, 0);
    let bf16 = if Kernel::is_possible() { 1 << FEWSTEP_PRECISION_BF16 } else { 0 };
    assert_eq!((info.device, info.index, info.usable, info.precisions), (FEWSTEP_DEVICE_CPU, 0, 1, 1 << FEWSTEP_PRECISION_F32 | bf16));
    assert_eq!((info.capability_major, info.capability_minor, info.memory_bytes, info.uuid), (0, 0, 0, [0; 16]));
    assert!(info.processors >= 1 && !ffi_common::name_of(&info.name).is_empty());
    assert!(ffi_common::name_of(&info.instructions).starts_with(Isa::detect().name()));
}

#[test]
fn a_runtime_says_what_it_computes_with() {
    let api = Api::load();
    for threads in [1, 3] {
        let runtime = api.runtime(threads);
        let (info, device) = (api.runtime_info(runtime), api.device_info(FEWSTEP_DEVICE_CPU, 0));
        assert_eq!((info.device, info.device_index, info.threads, info.foreign_context), (FEWSTEP_DEVICE_CPU, 0, threads, 0));
        assert_eq!((info.precisions, info.device_uuid, info.device_name), (device.precisions, device.uuid, device.name));
        // SAFETY: created above.
        api.ok(unsafe { (api.fewstep_runtime_destroy)(runtime) });
    }
    let runtime = api.runtime(0);
    assert_eq!(api.runtime_info(runtime).threads, api.device_info(FEWSTEP_DEVICE_CPU, 0).processors, "0 is one a core");
    // SAFETY: created above.
    api.ok(unsafe { (api.fewstep_runtime_destroy)(runtime) });
}

#[test]
fn bad_questions_get_a_sentence_and_nothing_is_written() {
    let api = Api::load();
    for device in [-1, 2, i32::MAX, i32::MIN] {
        let mut count = 77;
        // SAFETY: a valid pointer.
        api.fails("kind", unsafe { (api.fewstep_device_count)(device, &mut count) }, INVALID, &format!("device is {device}"));
        assert_eq!(count, 77);
    }
    for (row, device, index, needle) in [
        ("kind", 7, 0, "device is 7"),
        ("negative kind", -1, 0, "device is -1"),
        ("another CPU", FEWSTEP_DEVICE_CPU, 1, "index is 1"),
        ("negative CPU", FEWSTEP_DEVICE_CPU, -1, "index is -1"),
        ("negative GPU", FEWSTEP_DEVICE_CUDA, -1, "index is -1"),
        ("smallest index", FEWSTEP_DEVICE_CUDA, i32::MIN, "index is -2147483648"),
    ] {
        // SAFETY: plain data.
        let mut info: fewstep_device_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of::<fewstep_device_info>() as u32;
        // SAFETY: a valid pointer.
        api.fails(row, unsafe { (api.fewstep_device_get_info)(device, index, &mut info) }, INVALID, needle);
        assert!(info.name.iter().all(|c| *c == 0) && info.processors == 0, "{row}");
    }
}

/// Larger than what the library knows, as a later header would have it.
#[repr(C)]
struct Later<T> {
    info: T,
    tail: [u8; 16],
}

/// Asks for a struct in all sizes, which was so large at `first`; the last answer.
fn check_sizes<T: Copy>(api: &Api, row: &str, first: usize, ask: impl Fn(*mut T) -> i32) -> T {
    // SAFETY: plain data.
    let mut later: Later<T> = unsafe { std::mem::zeroed() };
    later.tail = [5; 16];
    let (known, larger) = (size_of::<T>(), size_of::<Later<T>>());
    for (size, status) in [(0, INVALID), (4, INVALID), (first - 1, INVALID), (5000, INVALID), (first, 0), (known, 0), (larger, 0)] {
        let info = &raw mut later.info;
        // SAFETY: these structs begin with their size.
        unsafe { info.cast::<u32>().write(size as u32) };
        let found = ask(info);
        match status {
            0 => api.ok(found),
            _ => api.fails(&format!("{row} of {size} bytes"), found, status, "struct_size"),
        }
        // SAFETY: as above.
        assert_eq!(unsafe { info.cast::<u32>().read() } as usize, size, "{row}: the size stays the caller's");
        assert!(later.tail == [5; 16], "{row}: nothing is written beyond what the library knows");
        // SAFETY: bytes of the struct, which is plain data.
        let behind = |at: usize| unsafe { info.cast::<u8>().add(at).read() };
        assert!(size >= known || (size.max(4)..known).all(|at| behind(at) == 0), "{row}: nothing is written beyond {size} bytes");
    }
    later.info
}

#[test]
fn struct_sizes_follow_the_rules() {
    let api = Api::load();
    let runtime = api.runtime(1);
    // SAFETY: valid pointers.
    unsafe {
        let device = check_sizes(&api, "device info", std::mem::offset_of!(fewstep_device_info, instructions), |info| {
            (api.fewstep_device_get_info)(FEWSTEP_DEVICE_CPU, 0, info)
        });
        let of_runtime = check_sizes(&api, "runtime info", size_of::<fewstep_runtime_info>(), |info| (api.fewstep_runtime_get_info)(runtime, info));
        assert!(device.usable == 1 && of_runtime.threads == 1);
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

/// Drivers that cannot be used, each in a process of its own, since a process looks for a driver once. The stand-ins are tests/c/driver.c.
#[cfg(target_os = "linux")]
mod drivers {
    use super::*;
    use std::path::Path;
    use std::process::Command;
    use std::ptr::null_mut;

    const UNSUPPORTED: i32 = 3;
    const NO_DEVICE: i32 = 9;
    const DRIVER_TOO_OLD: i32 = 11;

    /// Does this build have CUDA kernels?
    const BUILT: bool = cfg!(fewstep_cuda);
    const ROW: &str = "FEWSTEP_TEST_DRIVER";

    struct Row {
        name: &'static str,
        /// VERSION, INIT and DEVICES of the stand-in; `None` for a machine without a driver.
        driver: Option<[i32; 3]>,
        count: u32,
        /// What making a runtime on the first GPU answers.
        status: i32,
        sentence: &'static str,
    }

    const ROWS: [Row; 7] = [
        Row { name: "none", driver: None, count: 0, status: NO_DEVICE, sentence: "no NVIDIA driver" },
        Row { name: "too old", driver: Some([12_040, 0, 1]), count: 0, status: DRIVER_TOO_OLD, sentence: "supports CUDA 12.4, at least 13.0" },
        Row { name: "no GPU", driver: Some([13_000, 100, 0]), count: 0, status: NO_DEVICE, sentence: "CUDA error 100" },
        Row { name: "no GPU, late", driver: Some([13_000, 0, 0]), count: 0, status: NO_DEVICE, sentence: "there are 0" },
        Row { name: "does not start", driver: Some([13_000, 999, 1]), count: 0, status: NO_DEVICE, sentence: "CUDA error 999" },
        Row { name: "another library's", driver: Some([13_000, 803, 1]), count: 0, status: DRIVER_TOO_OLD, sentence: "CUDA error 803" },
        Row { name: "old GPUs", driver: Some([13_000, 0, 2]), count: 2, status: UNSUPPORTED, sentence: "compute capability 6.1; at least 7.5" },
    ];

    fn stand_in(folder: &Path, [version, init, devices]: [i32; 3]) {
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "tests/c/driver.c", "-o"]).arg(folder.join("libcuda.so"));
        command.args([format!("-DVERSION={version}"), format!("-DINIT={init}"), format!("-DDEVICES={devices}")]);
        assert!(command.status().expect("compiler").success());
    }

    #[test]
    fn that_cannot_be_used_give_a_reason() {
        let installed = Command::new("ldconfig").arg("-p").output().is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("libcuda.so"));
        for (at, row) in ROWS.iter().enumerate() {
            if row.driver.is_none() && installed {
                continue; // cannot be hidden from the child
            }
            let folder = ffi_common::scratch(&format!("driver-{at}"));
            if let Some(answers) = row.driver {
                stand_in(&folder, answers);
            }
            let child = Command::new(std::env::current_exe().expect("self"))
                .args(["--exact", "devices::drivers::child", "--nocapture"])
                .env(ROW, at.to_string())
                .env("LD_LIBRARY_PATH", &folder)
                .output()
                .expect("child");
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            assert!(child.status.success(), "{}: {}\n{}", row.name, text(&child.stdout), text(&child.stderr));
            std::fs::remove_dir_all(folder).expect("clean up");
        }
    }

    /// The child of the test above; without its variable there is nothing to do.
    #[test]
    fn child() {
        let Ok(at) = std::env::var(ROW) else { return };
        let row = &ROWS[at.parse::<usize>().expect("a row")];
        // A library without kernels looks at no driver.
        let Row { count, status, sentence, .. } = match BUILT {
            true => row,
            false => &Row { name: "", driver: None, count: 0, status: UNSUPPORTED, sentence: "built without CUDA kernels" },
        };
        let api = Api::load();
        assert_eq!(api.device_count(FEWSTEP_DEVICE_CUDA), *count);
        for index in 0..*count as i32 {
            let info = api.device_info(FEWSTEP_DEVICE_CUDA, index);
            assert_eq!((info.device, info.index, info.usable, info.precisions), (FEWSTEP_DEVICE_CUDA, index, 0, 0));
            assert_eq!((info.capability_major, info.capability_minor, info.processors, info.memory_bytes), (6, 1, 7, 1 << 30));
            assert_eq!((ffi_common::name_of(&info.name), info.uuid), (format!("old GPU {index}"), [index as u8 + 1; 16]));
        }
        if *count == 0 {
            // SAFETY: plain data.
            let mut info: fewstep_device_info = unsafe { std::mem::zeroed() };
            info.struct_size = size_of::<fewstep_device_info>() as u32;
            // SAFETY: a valid pointer.
            api.fails("info", unsafe { (api.fewstep_device_get_info)(FEWSTEP_DEVICE_CUDA, 0, &mut info) }, *status, sentence);
        }
        let uuid = [1u8; 16];
        let plain = api.runtime_options(FEWSTEP_DEVICE_CUDA);
        let by_uuid = if *count == 0 { plain } else { fewstep_runtime_options { device_uuid: uuid.as_ptr(), ..plain } };
        for options in [plain, by_uuid] {
            let mut runtime = null_mut();
            // SAFETY: valid pointers.
            api.fails("runtime", unsafe { (api.fewstep_runtime_create)(&options, &mut runtime) }, *status, sentence);
            assert!(runtime.is_null());
        }
    }
}

/// A variable that names nothing is no silent default. Read once in a process, so each value has one of its own.
#[test]
fn an_unknown_instruction_set_is_named_in_the_log() {
    const WARNINGS: &str = "FEWSTEP_TEST_ISA_WARNINGS";
    let name = "devices::an_unknown_instruction_set_is_named_in_the_log";
    if let Ok(expected) = std::env::var(WARNINGS) {
        let found = warnings_of_a_runtime();
        assert_eq!(found.len().to_string(), expected, "{found:?}");
        assert!(found.iter().all(|line| line.contains("FEWSTEP_ISA is \"avx3\"")), "{found:?}");
        return;
    }
    for (value, warnings) in [("avx3", "1"), ("avx2", "0"), ("", "0")] {
        let program = std::env::current_exe().expect("this program");
        let child = std::process::Command::new(program).args(["--exact", name]).env("FEWSTEP_ISA", value).env(WARNINGS, warnings).output().expect("a child");
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && out.contains("1 passed"), "{value:?}: {out}");
    }
}

/// What the log of a runtime on the CPU is told when it is made.
fn warnings_of_a_runtime() -> Vec<String> {
    unsafe extern "C" fn note(user: *mut c_void, level: i32, message: *const c_char) {
        assert_eq!(level, FEWSTEP_LOG_WARNING);
        // SAFETY: the list below, and a text of the library.
        let (seen, message) = unsafe { (&mut *user.cast::<Vec<String>>(), CStr::from_ptr(message)) };
        seen.push(message.to_str().expect("UTF-8").to_owned());
    }
    let api = Api::load();
    let (mut seen, mut runtime) = (Vec::<String>::new(), std::ptr::null_mut());
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut options: fewstep_runtime_options = std::mem::zeroed();
        api.ok((api.fewstep_runtime_options_init)(&mut options, size_of_val(&options)));
        options = fewstep_runtime_options { threads: 1, log: Some(note), log_user: (&raw mut seen).cast(), ..options };
        api.ok((api.fewstep_runtime_create)(&options, &mut runtime));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
    seen
}
