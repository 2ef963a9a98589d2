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

/// How each command ends.
pub const EXIT_STATUS: &str = "Ends with 0 (done), 1 (failed) or 2 (the command line was not understood). \
                               A reader that closes the pipe is no failure.";

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
    say!("{}", rendered(page, &args.command)?.trim_end())
}

/// The page of the command that these words name.
fn rendered(page: &clap::Command, words: &[String]) -> std::io::Result<String> {
    let mut text = Vec::new();
    let source = concat!("baton ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(page.clone()).source(source);
    man.render(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    // There is no page of that name: this program prints it.
    for below in page.get_subcommands() {
        let name = page.get_display_name().unwrap_or_else(|| page.get_name());
        let named = format!("{name}-{}(1)", below.get_name()).replace('-', "\\-");
        let words = words.iter().map(String::as_str);
        let words: Vec<&str> = words.chain([below.get_name()]).collect();
        let printed = format!("baton man {}", words.join(" ")).replace('-', "\\-");
        text = text.replace(&named, &printed);
    }
    // What the help ends with: of the program itself how it ends, of a command an example.
    if words.is_empty() {
        return Ok(text.replace(".SH EXTRA", ".SH EXIT STATUS"));
    }
    let text = text.replace(".SH EXTRA", ".SH EXAMPLE");
    Ok(format!(
        "{}\n.SH EXIT STATUS\n{EXIT_STATUS}\n",
        text.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn a_page_says_how_the_command_ends_and_where_the_next_page_is() {
        let below = Command::new("hand-over").about("Moves a lead");
        let middle = Command::new("partition").subcommand(below);
        let mut all = Command::new("baton")
            .subcommand(middle)
            .after_help(EXIT_STATUS);
        all.build();
        let top = rendered(&all, &[]).expect("rendered");
        assert!(top.contains("baton man partition\n"), "{top}");
        assert_eq!(top.matches("SH EXIT STATUS").count(), 1, "{top}");
        let middle = all.find_subcommand("partition").expect("a command");
        let page = rendered(middle, &["partition".to_owned()]).expect("rendered");
        assert!(page.contains("baton man partition hand\\-over"), "{page}");
        assert!(page.contains("SH EXIT STATUS\nEnds with 0"), "{page}");
        assert!(
            page.contains(&format!("\"baton {}\"", env!("CARGO_PKG_VERSION"))),
            "{page}"
        );
    }
}
