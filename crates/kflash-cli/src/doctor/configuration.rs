//! What the configuration says that cannot be.

use kflash::boards;
use kflash::config::{Board, Config, Source, Tree};

use super::{Finding, State};
use crate::configuration::Configuration;
use crate::failure::Failure;

/// What was found of the configuration; nothing, where there is none.
pub fn findings(found: &Result<Configuration, Failure>) -> Vec<Finding> {
    let finding = |state, is: &str| Finding { what: "configuration".to_owned(), state, is: is.to_owned() };
    match found {
        Err(failure) => vec![finding(State::Wrong, &failure.message)],
        Ok(Configuration { file: None, .. }) => Vec::new(),
        Ok(Configuration { file: Some(file), config }) => {
            let wrong = problems(config);
            if wrong.is_empty() {
                let boards: usize = config.printers.iter().map(|printer| printer.boards.len()).sum();
                let (printers, file) = (config.printers.len(), file.display());
                return vec![finding(
                    State::Ok,
                    &format!("{file}: {}, {}", count(printers, "printer"), count(boards, "board")),
                )];
            }
            wrong.iter().map(|problem| finding(State::Wrong, &format!("{}: {problem}", file.display()))).collect()
        }
    }
}

fn problems(config: &Config) -> Vec<String> {
    let mut problems: Vec<_> = config.klipper.iter().filter_map(|of| tree("klipper", of)).collect();
    if let Some(ca) = config.fetch.as_ref().and_then(|fetch| fetch.ca.as_ref()).filter(|ca| !ca.is_file()) {
        problems.push(format!("fetch.ca: {} is no file", ca.display()));
    }
    for printer in &config.printers {
        let name = &printer.name;
        problems.extend(printer.klipper.iter().filter_map(|of| tree(&format!("printers.{name}.klipper"), of)));
        let files = printer.moonraker.iter().flat_map(|of| [("api-key-file", &of.api_key_file), ("ca", &of.ca)]);
        for (key, file) in files {
            if let Some(file) = file.as_ref().filter(|file| !file.is_file()) {
                problems.push(format!("printers.{name}.moonraker.{key}: {} is no file", file.display()));
            }
        }
        let of_boards = printer.boards.iter().filter_map(board);
        problems.extend(of_boards.map(|(board, problem)| format!("printers.{name}.boards.{board}: {problem}")));
    }
    problems
}

fn board(board: &Board) -> Option<(&str, String)> {
    let problem = match boards::find(&board.board) {
        Err(error) => Some(error.to_string()),
        Ok((profile, _)) => {
            board.route.as_ref().filter(|id| profile.routes.iter().all(|route| route.id != **id)).map(|id| {
                let routes: Vec<_> = profile.routes.iter().map(|route| route.id.as_str()).collect();
                format!("route: {} has no {id:?}, but {}", profile.id, routes.join(", "))
            })
        }
    };
    let file = match &board.firmware {
        Some(Source::File(file)) if !file.is_file() => Some(format!("firmware: {} is no file", file.display())),
        _ => None,
    };
    problem.or(file).map(|problem| (board.name.as_str(), problem))
}

fn tree(key: &str, tree: &Tree) -> Option<String> {
    match tree {
        Tree::Directory(directory) if !directory.join("src/Kconfig").is_file() => {
            Some(format!("{key}: {} is no Klipper tree", directory.display()))
        }
        // Whether a server answers is not doctor's to try.
        Tree::Directory(_) | Tree::Git(_) => None,
    }
}

fn count(n: usize, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}
