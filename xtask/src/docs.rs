//! Documentation that is made from the code, so that it cannot contradict it.
//!
//! A generated section lies between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is `boards`, `exit-codes`, or
//! `help` followed by a verb, if any.

use std::fmt::Write;
use std::path::Path;
use std::{fs, str};

use anyhow::{Context, Result, bail};
use clap_complete::Shell;
use kflash::board::{Profile, Verified};
use kflash::boards;
use kflash::chip::Chip;
use kflash::config::Config;

use crate::k8s_jobs;

/// Files with generated sections.
const FILES: [&str; 2] = ["README.md", "docs/cli.md"];
/// The JSON Schema of the configuration.
const CONFIG_SCHEMA: &str = "schemas/config.schema.json";
const BEGIN: &str = "<!-- generated: ";
const BEGIN_END: &str = " -->\n";
const END: &str = "<!-- end -->";

/// Rewrites every section; man pages and completions go to `target/`.
pub fn write(root: &Path) -> Result<()> {
    for file in FILES {
        let path = root.join(file);
        let text = read(&path)?;
        fs::write(&path, generated(&text, root)?).with_context(|| format!("cannot write {file}"))?;
    }
    fs::create_dir_all(root.join("schemas"))?;
    fs::write(root.join(CONFIG_SCHEMA), config_schema()?).with_context(|| format!("cannot write {CONFIG_SCHEMA}"))?;
    k8s_jobs::write(root)?;
    let man = root.join("target/man");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(kflash_cli::command(), &man)?;
    let completions = root.join("target/completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut kflash_cli::command(), "kflash", &completions)?;
    }
    Ok(())
}

/// Fails if a section is not what would be written.
pub fn check(root: &Path) -> Result<()> {
    for file in FILES {
        let text = read(&root.join(file))?;
        if generated(&text, root)? != text {
            bail!("{file} is stale: run `cargo xtask docs`");
        }
    }
    if read(&root.join(CONFIG_SCHEMA))? != config_schema()? {
        bail!("{CONFIG_SCHEMA} is stale: run `cargo xtask docs`");
    }
    k8s_jobs::check(root)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn config_schema() -> Result<String> {
    Ok(serde_json::to_string_pretty(&schemars::schema_for!(Config))? + "\n")
}

/// `text` with every section made anew.
fn generated(text: &str, root: &Path) -> Result<String> {
    let mut made = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(BEGIN_END).context("a section's name does not end")?;
        let (_, after) = after.split_once(END).with_context(|| format!("section {name:?} does not end"))?;
        write!(made, "{before}{BEGIN}{name}{BEGIN_END}{}{END}", section(name, root)?)?;
        rest = after;
    }
    made.push_str(rest);
    Ok(made)
}

fn section(name: &str, root: &Path) -> Result<String> {
    match name.split_once(' ') {
        None if name == "help" => help(None),
        Some(("help", verb)) => help(Some(verb)),
        None if name == "boards" => board_table(),
        None if name == "exit-codes" => exit_codes(&read(&root.join("crates/kflash/src/exit.rs"))?),
        _ => bail!("no section is named {name:?}"),
    }
}

/// What `kflash [VERB] --help` prints.
fn help(verb: Option<&str>) -> Result<String> {
    // Options of the whole command reach the verbs only once it is built.
    let mut command = kflash_cli::command().term_width(100);
    command.build();
    let text = match verb {
        None => command.render_long_help(),
        Some(verbs) => {
            let mut found = &mut command;
            for verb in verbs.split(' ') {
                found = found.find_subcommand_mut(verb).with_context(|| format!("no verb {verbs:?}"))?;
            }
            found.render_long_help()
        }
    };
    let lines: Vec<_> = text.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    Ok(format!("```text\n{}\n```\n", lines.join("\n").trim_end()))
}

fn board_table() -> Result<String> {
    let mut table = String::from("| board | id | chip | routes | tried on |\n|---|---|---|---|---|\n");
    for (profile, chip) in boards::builtin()? {
        let Profile { name, id, .. } = &profile;
        let routes: Vec<_> = profile.routes.iter().map(|route| route.id.as_str()).collect();
        let tried = match profile.verified {
            Verified::Hardware => "the board itself",
            Verified::Docs => "the simulator; facts from documents",
            Verified::Simulated => "the simulator",
        };
        writeln!(table, "| {name} | `{id}` | {} | {} | {tried} |", mcu(&chip), routes.join(", "))?;
    }
    Ok(table)
}

fn mcu(chip: &Chip) -> String {
    chip.mcu.join(", ")
}

/// The table of exit codes, from the documentation of the enum.
fn exit_codes(source: &str) -> Result<String> {
    let (_, body) = source.split_once("pub enum ExitCode {").context("exit.rs has no ExitCode")?;
    let (body, _) = body.split_once("\n}").context("ExitCode does not end")?;
    let mut table = String::from("| code | name | meaning |\n|---|---|---|\n");
    let mut meaning = String::new();
    for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(doc) = line.strip_prefix("///") {
            meaning.push_str(doc);
        } else {
            let (name, code) = line.split_once(" = ").with_context(|| format!("exit.rs: {line:?} has no code"))?;
            let (code, meaning_now) = (code.trim_end_matches(','), meaning.trim());
            writeln!(table, "| {code} | {} | {meaning_now} |", kebab(name))?;
            meaning.clear();
        }
    }
    Ok(table)
}

/// `NotFound` as `not-found`.
fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for (i, c) in name.char_indices() {
        if c.is_uppercase() && i > 0 {
            kebab.push('-');
        }
        kebab.extend(c.to_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_documents_are_current() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn sections_are_replaced_and_all_else_is_kept() {
        let text = "before\n<!-- generated: exit-codes -->\nstale\n<!-- end -->\nafter\n";
        let made = generated(text, &crate::root()).unwrap();
        assert!(made.starts_with("before\n<!-- generated: exit-codes -->\n| code |"), "{made}");
        assert!(made.contains("\n| 4 | not-found | No such device. |\n"), "{made}");
        assert!(made.ends_with("<!-- end -->\nafter\n") && !made.contains("stale"), "{made}");
        assert_eq!(generated(&made, &crate::root()).unwrap(), made);
    }

    #[test]
    fn a_section_of_no_name_or_without_end_is_an_error() {
        let root = crate::root();
        assert!(generated("<!-- generated: nothing -->\n<!-- end -->", &root).is_err());
        assert!(generated("<!-- generated: boards -->\n", &root).is_err());
    }
}
