//! Whether a directory or commit is a Klipper or Kalico tree, by facts about its files.

use std::path::Path;

/// Files that firmware trees with Klipper's build have.
pub(super) const FILES: [&str; 3] = ["Makefile", "src/Kconfig", "scripts/buildcommands.py"];

/// Most that is read of such a file.
pub(super) const MOST: usize = 1 << 20;

/// What `read` must return of a file of the tree: its text, or nothing if there is no such file.
pub(super) fn app<E>(mut read: impl FnMut(&Path) -> Result<Option<Vec<u8>>, E>) -> Result<Result<String, String>, E> {
    let mut texts = [const { String::new() }; 3];
    for (file, text) in FILES.iter().zip(&mut texts) {
        match read(Path::new(file))? {
            Some(bytes) => *text = String::from_utf8_lossy(&bytes).into_owned(),
            None => return Ok(Err(format!("it has no {file}"))),
        }
    }
    let [_, kconfig, commands] = texts;
    // Katapult's tree has the same files; its menu tells. CanBoot was its first name.
    let title = kconfig.lines().find(|line| line.trim_start().starts_with("mainmenu")).unwrap_or_default();
    if ["Katapult", "CanBoot"].iter().any(|name| title.contains(name)) {
        return Ok(Err("it is a Katapult tree, which holds the bootloader and no application".to_owned()));
    }
    Ok(Ok(named(&commands).unwrap_or_else(|| "Klipper".to_owned())))
}

/// The application's name, which scripts/buildcommands.py puts into the dictionary as `app`; Klipper before 2024 put none.
fn named(commands: &str) -> Option<String> {
    commands.match_indices("app").find_map(|(at, _)| {
        let quote = commands[..at].chars().next_back().filter(|quote| ['"', '\''].contains(quote))?;
        let rest = commands[at + 3..].strip_prefix(quote)?;
        let value = rest.trim_start_matches([']', ' ']).strip_prefix(['=', ':'])?.trim_start_matches(' ');
        let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
        let name = value[1..].split(quote).next()?;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || " -_.".contains(c));
        (plain && (1..=40).contains(&name.len())).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_is_named_by_the_script_that_makes_the_dictionary() {
        for (line, app) in [
            ("data['app'] = 'Klipper'", Some("Klipper")),
            ("        data[\"app\"] = \"Kalico\"\n", Some("Kalico")),
            ("made = {\"app\": \"Danger Klipper\", }", Some("Danger Klipper")),
            ("app = app['x']\ndata['apparent'] = 1\ndata['app'] = ''\ndata['app']='K'", Some("K")),
            ("data['app'] = \"\\x1b[2J\"", None),
            ("", None),
        ] {
            assert_eq!(named(line).as_deref(), app, "{line}");
        }
    }
}
