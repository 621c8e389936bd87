//! Tests that need a process of their own: they count its threads or its allocations, which tests beside them would change.

use std::process::Command;

const CHILD: &str = "FEWSTEP_TEST_ALONE";

/// Runs `test`, which is the body of the test `path` (`concat!(module_path!(), "::name")`), in a process that runs nothing else.
pub fn alone(path: &str, test: impl FnOnce()) {
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return test();
    }
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program).args(["--exact", name, "--nocapture"]).env(CHILD, name).output().expect("a child");
    let [out, err] = [&child.stdout, &child.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(child.status.success() && out.contains("1 passed"), "{name}: {}\n{out}\n{err}", child.status);
}
