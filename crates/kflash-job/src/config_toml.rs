//! The configuration that the containers read: one printer, with paths as they are in the pod.

use kflash::config::{Board, Config, Fetch, GitTree, Printer, Source, Tree};
use kflash::identify::Selector;
use toml::{Table, Value};

use crate::JobError;
use crate::pod::{API_KEY, CA, INPUTS, MOONRAKER_CA, profile_path};

/// Where a board's firmware comes from, in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// It is in the ConfigMap.
    Given,
    /// It is built.
    Build,
    /// It is fetched.
    Fetch,
}

/// Where the firmware of each board comes from in a pod, which has none of this machine's files; `given`: it comes along.
pub(crate) fn sources(config: &Config, printer: &Printer, given: bool) -> Result<Vec<From>, JobError> {
    printer.boards.iter().map(|board| if given { Ok(From::Given) } else { source(config, printer, board) }).collect()
}

fn source(config: &Config, printer: &Printer, board: &Board) -> Result<From, JobError> {
    let cannot =
        |problem| Err(JobError::NoFirmware { printer: printer.name.clone(), board: board.name.clone(), problem });
    let git = git(config, printer).is_some();
    match &board.firmware {
        Some(Source::File(_)) => cannot("its firmware is a file of this machine: give it with --firmware"),
        Some(Source::Build) if !git => cannot("a pod builds from a git repository: state klipper = { git = \"URL\" }"),
        Some(Source::Fetch) if config.fetch.is_none() => cannot("no index to fetch from: state [fetch]"),
        Some(Source::Build) => Ok(From::Build),
        Some(Source::Fetch) => Ok(From::Fetch),
        None if git => Ok(From::Build),
        None if config.fetch.is_some() => Ok(From::Fetch),
        None => {
            cannot("nothing to obtain firmware from: state klipper = { git = \"URL\" } or [fetch], or give --firmware")
        }
    }
}

/// Whether what is built is what the printer's own Klipper runs.
pub(crate) fn is_of_host(config: &Config, printer: &Printer) -> bool {
    git(config, printer).is_some_and(GitTree::is_of_host)
}

/// The repository that a pod can clone, which does not lie on this machine.
fn git<'a>(config: &'a Config, printer: &'a Printer) -> Option<&'a GitTree> {
    match config.tree_of(Some(printer)) {
        Some(Tree::Git(tree)) if !tree.git.starts_with('/') && !tree.git.starts_with("file:") => Some(tree),
        _ => None,
    }
}

/// The configuration in the pod; `sources`: where the firmware of each board comes from.
pub(crate) fn config_toml(config: &Config, printer: &Printer, sources: &[From]) -> String {
    let mut table = Table::new();
    if let Some(tree) = git(config, printer).filter(|_| sources.contains(&From::Build)) {
        table.insert("klipper".to_owned(), repository(tree).into());
    }
    if let Some(fetch) = config.fetch.as_ref().filter(|_| sources.contains(&From::Fetch)) {
        table.insert("fetch".to_owned(), index(fetch).into());
    }
    let mut of = Table::from_iter([("name".to_owned(), Value::from(printer.name.clone()))]);
    if let Some(moonraker) = &printer.moonraker {
        let mut asked = Table::from_iter([("url".to_owned(), Value::from(moonraker.url.clone()))]);
        if printer.cluster.as_ref().is_some_and(|cluster| cluster.api_key_secret.is_some()) {
            asked.insert("api-key-file".to_owned(), API_KEY.into());
        }
        let ca = moonraker.ca.as_ref().map(|_| Value::from(format!("{INPUTS}/{MOONRAKER_CA}")));
        asked.extend(ca.map(|ca| ("ca".to_owned(), ca)));
        of.insert("moonraker".to_owned(), asked.into());
    }
    let boards = printer.boards.iter().zip(sources).map(|(board, from)| Value::from(described(board, *from)));
    of.insert("boards".to_owned(), boards.collect::<Vec<_>>().into());
    table.insert("printers".to_owned(), vec![Value::from(of)].into());
    table.to_string()
}

fn repository(tree: &GitTree) -> Table {
    let mut table = Table::from_iter([("git".to_owned(), Value::from(tree.git.clone()))]);
    table.extend(tree.reference.clone().map(|reference| ("ref".to_owned(), Value::from(reference))));
    table
}

fn index(fetch: &Fetch) -> Table {
    let mut table = Table::from_iter([("index".to_owned(), Value::from(fetch.index.clone()))]);
    table.extend(fetch.key.clone().map(|key| ("key".to_owned(), Value::from(key))));
    table.extend(fetch.ca.as_ref().map(|_| ("ca".to_owned(), Value::from(format!("{INPUTS}/{CA}")))));
    table
}

/// As a configuration has it; shown, it would be escaped.
pub(crate) fn selector(selector: &Selector) -> String {
    match selector {
        Selector::Serial(serial) => serial.clone(),
        Selector::Tty(path) => path.display().to_string(),
        Selector::UsbPath(_) | Selector::Tcp(_) | Selector::Usbip { .. } => selector.to_string(),
    }
}

/// The board's profile in the pod: its id, or a file.
pub(crate) fn profile(board: &Board) -> String {
    if board.board.contains('/') { profile_path(&board.name) } else { board.board.clone() }
}

fn described(board: &Board, from: From) -> Table {
    let mut table = Table::from_iter([
        ("name".to_owned(), Value::from(board.name.clone())),
        ("board".to_owned(), Value::from(profile(board))),
    ]);
    let devices: Vec<_> = board.device.iter().map(|device| Value::from(selector(device))).collect();
    table.insert("device".to_owned(), devices.into());
    table.extend(board.route.clone().map(|route| ("route".to_owned(), Value::from(route))));
    if !board.symbols.is_empty() {
        let symbols: Table = board.symbols.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        table.insert("symbols".to_owned(), symbols.into());
    }
    let firmware = match from {
        From::Given => None,
        From::Build => Some("build"),
        From::Fetch => Some("fetch"),
    };
    table.extend(firmware.map(|firmware| ("firmware".to_owned(), Value::from(firmware))));
    table
}
