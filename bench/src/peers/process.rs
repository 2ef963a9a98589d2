//! Processes of other systems. They know no flag that would end them with the benchmark, so each is
//! started by way of this program, which asks the system for that and then becomes the other one.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::usage::Watched;

/// Flags of the way there; used by the benchmark itself.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// The process to end with.
    #[arg(long)]
    parent: i32,
    /// The program to become, and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Becomes another program, which ends when its parent does.
///
/// # Errors
/// If that cannot be started, or the parent is gone already.
pub fn run(args: &NodeArgs) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before this was asked for.
    ensure!(
        getppid() == Pid::from_raw(args.parent),
        "the process that started this one is gone"
    );
    let (program, rest) = args.command.split_first().context("no program is named")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}

/// A process that runs; ends when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program, its output in `dir`/`name`.log.
    ///
    /// # Errors
    /// If the system starts no process.
    pub fn start(
        name: &str,
        dir: &Path,
        program: &Path,
        args: &[String],
        variables: &[(&str, String)],
    ) -> anyhow::Result<Process> {
        let log = dir.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["peer-node", "--parent", &std::process::id().to_string()])
            .arg("--")
            .arg(program)
            .args(args)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// The process, to be watched.
    pub fn watched(&self) -> Watched {
        Watched {
            name: self.name.clone(),
            pid: self.child.id(),
        }
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n  ");
        bail!(
            "{} ended ({status}); the end of its log:\n  {tail}",
            self.name
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its data goes with it, so nothing is worth an orderly end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
