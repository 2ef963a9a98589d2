//! `baton completions` and `baton man`: made of the same text as `--help`.

use anyhow::bail;
use clap::Args;

use crate::cli::output::say;

/// Flags of `baton completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. For bash: baton completions bash > ~/.local/share/bash-completion/completions/baton
    shell: clap_complete::Shell,
}

/// Flags of `baton man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command that the page is about, as `topic create`; without one, `baton` itself. To read
    /// it: baton man topic create | man -l -
    command: Vec<String>,
}

/// Prints what a shell needs to complete command lines.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "baton", &mut text);
    say!("{}", String::from_utf8_lossy(&text).trim_end())
}

/// Prints a page for `man`.
pub fn man(args: &ManArgs, mut command: clap::Command) -> anyhow::Result<()> {
    command.build();
    let mut page = &command;
    for word in &args.command {
        match page.find_subcommand(word) {
            Some(found) => page = found,
            None => bail!("there is no command `{}`", args.command.join(" ")),
        }
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(page.clone()).render(&mut text)?;
    say!("{}", String::from_utf8_lossy(&text).trim_end())
}
