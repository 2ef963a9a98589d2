//! The golden scripts: `UPDATE_GOLDENFILES=1 cargo test -p baton-groups` writes what they
//! yield; read it before it is kept.

use std::path::PathBuf;

use baton_groups::rules::Rules;

use crate::script::Runner;

/// All scripts, by name.
pub fn paths() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
    let entries = std::fs::read_dir(dir).expect("the scripts are there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory can be read").path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_script_yields_what_it_tells() {
    let mut failed = Vec::new();
    for path in paths() {
        let run = || goldenscript::run(&mut Runner::new(Rules::default()), &path);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error}")),
            Err(_) => failed.push(format!("{name}: differs, see above")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
