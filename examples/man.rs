//! `make man`: writes the manual pages of both programs and their subcommands into a directory.

use std::path::PathBuf;

use clap_mangen::Man;
use systemimager::cli;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "target/man".into()));
    std::fs::create_dir_all(&dir)?;
    for command in [cli::updateclient::command(), cli::tardiff::command()] {
        // The page of a subcommand has its full name, with a dash for the space.
        let name = command.get_name().to_owned();
        for sub in command.get_subcommands() {
            let name: &'static str = format!("{name}-{}", sub.get_name()).leak();
            write_page(&dir, sub.clone().name(name))?;
        }
        write_page(&dir, command)?;
    }
    Ok(())
}

fn write_page(dir: &std::path::Path, command: clap::Command) -> std::io::Result<()> {
    let page = dir.join(format!("{}.8", command.get_name()));
    let mut text = Vec::new();
    Man::new(command).section("8").manual("System administration").render(&mut text)?;
    std::fs::write(page, text)
}
