//! What must hold of a configuration beyond its form, and the paths in it made absolute.

use std::path::{Path, PathBuf};

use super::{Board, Config, Fetch, Moonraker, Printer, Source, Tree, twice};
use crate::boards::check::{is_id, symbol};

/// A key and what is wrong with it.
type Wrong = (String, String);

/// Where relative paths lie.
#[derive(Clone, Copy)]
struct Base<'a> {
    beside: &'a Path,
    home: Option<&'a Path>,
}

pub(super) fn config(config: &mut Config, beside: &Path, home: Option<&Path>) -> Result<(), Wrong> {
    let base = Base { beside, home };
    if let Some(of) = &mut config.klipper {
        tree(of, "klipper", base)?;
    }
    if let Some(of) = &mut config.fetch {
        fetch(of, base)?;
    }
    for one in &mut config.printers {
        printer(one, base)?;
    }
    match twice(config.printers.iter().map(|printer| printer.name.as_str())) {
        Some(name) => Err(("printers".to_owned(), format!("{name:?} twice"))),
        None => Ok(()),
    }
}

/// The characters of a minisign public key: algorithm, number and key in base64.
const KEY_LENGTH: usize = 56;

fn fetch(fetch: &mut Fetch, base: Base<'_>) -> Result<(), Wrong> {
    // Which hosts plain HTTP may name, fetching says.
    if !["https://", "file://", "http://"].iter().any(|scheme| fetch.index.starts_with(scheme)) {
        return Err(wrong("fetch.index", &format!("{:?} is no https:// or file:// URL", fetch.index)));
    }
    line("fetch.index", &fetch.index)?;
    let is_key = |key: &str| {
        key.len() == KEY_LENGTH
            && key.starts_with("RW")
            && key.bytes().all(|it| it.is_ascii_alphanumeric() || b"+/".contains(&it))
    };
    if fetch.key.as_ref().is_some_and(|key| !is_key(key)) {
        let problem = format!("no minisign public key: it is a line of {KEY_LENGTH} characters that begins with RW");
        return Err(wrong("fetch.key", &problem));
    }
    if let Some(ca) = &mut fetch.ca {
        *ca = base.path("fetch.ca", ca)?;
    }
    Ok(())
}

fn printer(printer: &mut Printer, base: Base<'_>) -> Result<(), Wrong> {
    id("printers.name", &printer.name)?;
    let key = format!("printers.{}", printer.name);
    if let Some(of) = &mut printer.moonraker {
        moonraker(of, &format!("{key}.moonraker"), base)?;
    }
    if let Some(of) = &mut printer.klipper {
        tree(of, &format!("{key}.klipper"), base)?;
    }
    if let Some(cluster) = &printer.cluster {
        cluster.check().map_err(|(field, problem)| (format!("{key}.cluster.{field}"), problem))?;
    }
    if printer.boards.is_empty() {
        return Err((format!("{key}.boards"), "none".to_owned()));
    }
    for one in &mut printer.boards {
        board(one, &key, base)?;
    }
    match twice(printer.boards.iter().map(|board| board.name.as_str())) {
        Some(name) => Err((format!("{key}.boards"), format!("{name:?} twice: give each a name of its own"))),
        None => Ok(()),
    }
}

fn moonraker(moonraker: &mut Moonraker, key: &str, base: Base<'_>) -> Result<(), Wrong> {
    line(&format!("{key}.url"), &moonraker.url)?;
    if !["http://", "https://"].iter().any(|scheme| moonraker.url.starts_with(scheme)) {
        let problem = format!("{:?} is no URL such as http://voron.local:7125", moonraker.url);
        return Err((format!("{key}.url"), problem));
    }
    // URLs are shown.
    let (_, after) = moonraker.url.split_once("//").unwrap_or_default();
    if after.split('/').next().unwrap_or_default().contains('@') {
        return Err((format!("{key}.url"), "holds a password, and addresses are shown: use api-key-file".to_owned()));
    }
    if let Some(file) = &mut moonraker.api_key_file {
        if moonraker.api_key.is_some() {
            return Err((key.to_owned(), "api-key and api-key-file are stated, one is enough".to_owned()));
        }
        *file = base.path(&format!("{key}.api-key-file"), file)?;
    }
    if let Some(file) = &mut moonraker.ca {
        *file = base.path(&format!("{key}.ca"), file)?;
    }
    Ok(())
}

fn board(board: &mut Board, printer: &str, base: Base<'_>) -> Result<(), Wrong> {
    let is_path = board.board.contains('/') || Path::new(&board.board).extension().is_some_and(|end| end == "toml");
    if board.name.is_empty() {
        let stem = Path::new(&board.board).file_stem().and_then(|stem| stem.to_str());
        board.name = if is_path { stem.unwrap_or_default().to_owned() } else { board.board.to_ascii_lowercase() };
    }
    id(&format!("{printer}.boards.name"), &board.name)?;
    let key = format!("{printer}.boards.{}", board.name);
    line(&format!("{key}.board"), &board.board)?;
    if is_path {
        let path = base.path(&format!("{key}.board"), Path::new(&board.board))?;
        board.board = path
            .into_os_string()
            .into_string()
            .map_err(|_| wrong(&key, "lies in a directory without a name in UTF-8"))?;
        // `boards::find` takes what holds no slash and does not end in .toml for a name.
        if !board.board.contains('/') {
            board.board.insert_str(0, "./");
        }
    }
    if let Some(route) = &board.route {
        id(&format!("{key}.route"), route)?;
    }
    for (name, value) in &board.symbols {
        symbol(name, value).map_err(|problem| (format!("{key}.symbols"), problem))?;
    }
    if let Some(Source::File(file)) = &mut board.firmware {
        *file = base.path(&format!("{key}.firmware"), file)?;
    }
    Ok(())
}

fn tree(tree: &mut Tree, key: &str, base: Base<'_>) -> Result<(), Wrong> {
    match tree {
        Tree::Directory(directory) => *directory = base.path(key, directory)?,
        Tree::Git(git) => {
            line(&format!("{key}.git"), &git.git)?;
            if ["/", "./", "../", "~"].iter().any(|start| git.git.starts_with(start)) {
                let path = base.path(&format!("{key}.git"), Path::new(&git.git))?;
                git.git = path.into_os_string().into_string().map_err(|_| wrong(key, "no UTF-8"))?;
            } else if git.git.starts_with('-') || !git.git.contains(':') {
                // git takes the one for an option, the other for a directory in wherever it happens to run.
                return Err((format!("{key}.git"), format!("{:?} is neither a URL nor a path", git.git)));
            }
            if let Some(reference) = &git.reference {
                let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"~^:?*[\\".contains(c);
                if reference.is_empty() || reference.starts_with('-') || !reference.chars().all(plain) {
                    let problem = format!("{reference:?} is no branch, tag or commit");
                    return Err((format!("{key}.ref"), problem));
                }
            }
        }
    }
    Ok(())
}

impl Base<'_> {
    /// `path` in the home directory, or beside the configuration.
    fn path(self, key: &str, path: &Path) -> Result<PathBuf, Wrong> {
        let odd = path.as_os_str().is_empty() || path.to_str().is_some_and(|text| text.contains(char::is_control));
        if odd {
            return Err((key.to_owned(), format!("{:?} is no path", path.display().to_string())));
        }
        match (path.strip_prefix("~"), self.home) {
            (Ok(below), Some(home)) => Ok(home.join(below)),
            (Ok(_), None) => Err((key.to_owned(), format!("{}: no home directory is known", path.display()))),
            (Err(_), _) if path.to_string_lossy().starts_with('~') => {
                Err((key.to_owned(), format!("{}: only ~/ is understood, no other user's home", path.display())))
            }
            (Err(_), _) => Ok(self.beside.join(path)),
        }
    }
}

fn wrong(key: &str, problem: &str) -> Wrong {
    (key.to_owned(), problem.to_owned())
}

/// Names stand in file names, JSON and on terminals.
fn id(key: &str, text: &str) -> Result<(), Wrong> {
    if is_id(text) {
        return Ok(());
    }
    Err((key.to_owned(), format!("{text:?} is no name: lower-case letters, digits, dots, dashes and underscores")))
}

fn line(key: &str, text: &str) -> Result<(), Wrong> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err((key.to_owned(), format!("{text:?} is no line of text")));
    }
    Ok(())
}
