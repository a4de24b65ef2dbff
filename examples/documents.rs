//! `make man`: writes the manual pages and the shell completions of both programs.
//!
//! Both are made from the table of options that also makes the help.

use std::ffi::OsString;
use std::io::Result;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use systemimager::cli;

/// Options with a fixed list of values.
const VALUES: [(&str, &[&str]); 3] = [
    ("check", &["touched", "update", "stat", "content"]),
    ("drift", &["repair", "report"]),
    ("effort", &["fast", "normal", "best"]),
];

fn main() -> Result<()> {
    let mut directories = std::env::args_os().skip(1);
    let mut directory =
        |default: &str| directories.next().unwrap_or_else(|| OsString::from(default));
    let (pages, completions) = (directory("target/man"), directory("target/completions"));

    for command in [cli::updateclient::command(), cli::tardiff::command()] {
        write_completions(completions.as_ref(), &command)?;
        write_pages(pages.as_ref(), command)?;
    }
    Ok(())
}

/// Writes a file for each shell, by the name under which the shell looks for it.
fn write_completions(directory: &Path, command: &Command) -> Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let file = match shell {
            Shell::Zsh => format!("_{name}"),
            Shell::Fish => format!("{name}.fish"),
            _ => name.clone(),
        };
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut with_values(command.clone()), &name, &mut text);

        let directory = directory.join(shell.to_string());
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(file), text)?;
    }
    Ok(())
}

/// Adds the values of options that the programs parse by themselves, for the completions.
fn with_values(command: Command) -> Command {
    let with_own = VALUES.into_iter().fold(command, |command, (option, values)| {
        if command.get_arguments().any(|argument| argument.get_id() == option) {
            command.mut_arg(option, |argument| argument.value_parser(values.to_vec()))
        } else {
            command
        }
    });
    with_own.mut_subcommands(with_values)
}

/// Writes the page of a program, and one for each of its subcommands.
fn write_pages(directory: &Path, command: Command) -> Result<()> {
    std::fs::create_dir_all(directory)?;

    // The page of a subcommand has its full name, with a dash for the space.
    let name = command.get_name().to_owned();
    let source = format!("{name} {}", command.get_version().unwrap_or_default());
    for sub in command.get_subcommands() {
        let page: &'static str = format!("{name}-{}", sub.get_name()).leak();
        let typed = format!("{name} {}", sub.get_name());
        write_page(directory, sub.clone().name(page).bin_name(typed), &source)?;
    }
    write_page(directory, command, &source)
}

fn write_page(directory: &Path, command: Command, source: &str) -> Result<()> {
    let page = directory.join(format!("{}.8", command.get_name()));
    let mut text = Vec::new();
    let man = Man::new(command).section("8").source(source).manual("System administration");
    man.render(&mut text)?;
    std::fs::write(page, text)
}
