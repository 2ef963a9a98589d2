//! Instructions that a produced record takes in the broker: driver, core and log of all three replicas,
//! without sockets and actors. Counted by callgrind, so the figure does not depend on what else the
//! machine does, and a change of a percent can be seen.
//!
//! ```sh
//! cargo bench -p baton-bench --bench instructions              # count, and compare with the file
//! cargo bench -p baton-bench --bench instructions -- --save    # note them in the file
//! cargo bench -p baton-bench --bench instructions -- --check   # fail if they are more than 5 % more
//! ```
//!
//! The file is `bench/benches/instructions.txt`. Checksums are counted as valgrind's processor does them,
//! which knows fewer instructions than a real one. Needs valgrind (Debian: `apt install valgrind`).

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use baton::driver::CheckedBatch;
use baton_protocol::metadata::Flush;

use self::support::{Replicas, batch_of};

/// In the child: the size of a record, and how many batches.
const LOAD: &str = "BATON_BENCH_LOAD";

/// Sizes of a record's value.
const SIZES: [usize; 2] = [100, 1024];

/// Batches of the shorter run. The longer one has twice as many; the difference leaves the start out.
const BATCHES: u64 = 50;

/// More than so much more than the file says fails a check.
const TOLERANCE: f64 = 0.05;

fn main() -> ExitCode {
    let done = match std::env::var(LOAD) {
        Ok(load) => carry(&load),
        Err(_) => count_all(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is counted.
fn carry(load: &str) -> anyhow::Result<()> {
    let (size, batches) = load.split_once(' ').context("a size and a number")?;
    let (batch, _) = batch_of(size.parse()?);
    let batches: u64 = batches.parse()?;
    let mut replicas = Replicas::new(Flush::Interval);
    for _ in 0..batches {
        // Checked each time, as each batch of a client is.
        let checked = CheckedBatch::check(batch.clone(), 1 << 20)?;
        replicas.produce(&checked);
    }
    Ok(())
}

/// Instructions of a whole process.
fn count(size: usize, batches: u64) -> anyhow::Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .env(LOAD, format!("{size} {batches}"))
        .output()
        .context("cannot start valgrind (Debian: apt install valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed: {said}");
    }
    let collected = said.lines().find_map(|line| {
        let (_, number) = line.split_once("Collected : ")?;
        number.trim().parse().ok()
    });
    collected.context("valgrind does not tell what it counted")
}

fn count_all() -> anyhow::Result<()> {
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt");
    let noted = read(&path)?;
    let mut counted = BTreeMap::new();
    let mut worse = Vec::new();
    println!("instructions            now      noted    change");
    for size in SIZES {
        let (_, records) = batch_of(size);
        let batch = (count(size, 2 * BATCHES)? - count(size, BATCHES)?) / BATCHES as f64;
        for (what, value) in [("record", batch / records as f64), ("batch", batch)] {
            let name = format!("{what} of {size} B");
            let change = noted.get(&name).map(|before| value / before - 1.0);
            let [before, told] = match (noted.get(&name), change) {
                (Some(before), Some(change)) => {
                    [format!("{before:.1}"), format!("{:+.1} %", change * 100.0)]
                }
                _ => ["-".to_owned(), "-".to_owned()],
            };
            println!("{name:<16} {value:>10.1} {before:>10} {told:>9}");
            if change.is_some_and(|change| change > TOLERANCE) {
                worse.push(name.clone());
            }
            counted.insert(name, value);
        }
    }
    if asked("--save") {
        write(&path, &counted)?;
    }
    if asked("--check") && !worse.is_empty() {
        bail!(
            "more than {:.0} % more: {}",
            TOLERANCE * 100.0,
            worse.join(", ")
        );
    }
    Ok(())
}

/// A line each: the number, and what it is of.
fn read(path: &PathBuf) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (number, name) = line.trim().split_once(' ').context("a number and a name")?;
        Ok((name.trim().to_owned(), number.parse()?))
    });
    parsed
        .collect::<anyhow::Result<_>>()
        .with_context(|| path.display().to_string())
}

fn write(path: &PathBuf, counted: &BTreeMap<String, f64>) -> anyhow::Result<()> {
    let mut text = String::from(
        "# Instructions of all three replicas, by callgrind: cargo bench -p baton-bench --bench instructions\n",
    );
    for (name, value) in counted {
        text.push_str(&format!("{value:.1} {name}\n"));
    }
    Ok(std::fs::write(path, text)?)
}
