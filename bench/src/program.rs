//! Where the `baton` program is that is measured: beside this one. Under `cargo run` it is built
//! first, so that nobody measures what they changed an hour ago.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// The broker's program.
///
/// # Errors
/// If it is not there, or cannot be built.
pub fn find() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().context("this program is in no directory")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        build(Path::new(&cargo), dir)?;
    }
    let program = dir.join("baton");
    if !program.exists() {
        bail!(
            "{} is not there; build it: cargo build --release -p baton",
            program.display()
        );
    }
    Ok(program)
}

/// Builds it as this program was built, into the same directory.
fn build(cargo: &Path, dir: &Path) -> anyhow::Result<()> {
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = dir.parent().context("this program is in no directory")?;
    let status = Command::new(cargo)
        .args(["build", "--quiet", "-p", "baton", "--bin", "baton"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .with_context(|| format!("cannot start {}", cargo.display()))?;
    ensure!(status.success(), "the broker could not be built");
    Ok(())
}
