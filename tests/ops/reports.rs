//! What people see of a plan: as text, and in the files that variables name.

use crate::common::{Case, conv_cases};
use crate::fusion::conv;
use crate::plan::ready;
use fewstep::Result;
use fewstep::graph::passes;

/// What stays apart says why, and a plan reads as a program with its places.
#[test]
fn plans_are_readable() -> Result<()> {
    let mut case = Case::new("readable");
    let x = case.input(&[2, 5, 5, 4]);
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, x)?;
    let b = conv(&mut case, "b", y);
    let z = case.graph.add(b, x)?;
    let (gamma, beta) = (case.state("gamma", &[4]), case.state("beta", &[4]));
    let n = case.graph.group_norm(z, gamma, beta, 2, 1e-5, true)?;
    for (value, name) in [(a, "first"), (y, "sum"), (z, "output"), (n, "normalised")] {
        case.graph.set_name(value, name);
    }
    case.expect(a, 1e-5);
    case.expect(n, 1e-5);
    let exe = ready(&case)?;
    let notes = passes::why_not(exe.plan().graph())?;
    let text = format!("{}{}", exe.plan(), notes.iter().map(|note| format!("note: {note}\n")).collect::<String>());
    for words in [
        "plan: 6 nodes, 2 of them once; precision F32",
        "note: binary 'sum' is not part of the convolution 'first': others read the convolution's result too",
        "note: group_norm 'normalised' sums over its input: the backend takes no moments there",
        "segment 'main'",
        "'output' F32[2, 5, 5, 4] @arena+",
        "residual: true",
        "tap %",
    ] {
        assert!(text.contains(words), "no \"{words}\" in\n{text}");
    }
    assert!(!text.contains("'output' is not part"), "{text}");
    let program = case.graph.to_string();
    assert!(program.contains("= state\n") && program.contains("= input\n") && program.contains("  %"), "{program}");
    Ok(())
}

/// The variables that name a file, in a process of their own: this one's belong to all tests.
#[test]
fn plans_and_times_go_where_they_are_asked_for() {
    let folder = std::env::temp_dir().join(format!("fewstep-reports-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let [plan, profile] = ["plan", "profile"].map(|name| folder.join(name));
    let run = |plan: &std::path::Path, profile: &std::path::Path| {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "fusion::epilogues_are_fused"]).env("FEWSTEP_PLAN", plan).env("FEWSTEP_PROFILE", profile);
        child.output().expect("a run")
    };
    assert!(run(&plan, &profile).status.success());
    let [plans, times] = [&plan, &profile].map(|path| std::fs::read_to_string(path).expect("a report"));
    assert!(plans.matches("== CPU\nplan: ").count() >= conv_cases::EPILOGUES.len(), "{plans}");
    assert!(times.contains("== CPU: ") && times.contains(" x  fused_conv2d\n") && times.contains("longest\n"), "{times}");
    for (failed, variable) in [(run(&folder, &profile), "FEWSTEP_PLAN"), (run(&plan, &folder), "FEWSTEP_PROFILE")] {
        assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stdout).contains(variable), "{failed:?}");
    }
    std::fs::remove_dir_all(&folder).expect("an end");
}
