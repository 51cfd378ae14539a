//! Which Klipper tree firmware is built from.

use std::env;
use std::path::{Path, PathBuf};

use kflash::config::{self, Config, GitTree, Printer};
use kflash::flash::Interrupt;
use kflash::obtain::build::Environment;
use kflash::obtain::build::tree::{Tree, TreeError};
use kflash::obtain::cache::Cache;

use crate::failure::Failure;
use crate::host_version::host_version;
use crate::render;

/// Which tree.
#[derive(clap::Args, Debug, Default)]
pub struct TreeArgs {
    /// The Klipper or Kalico tree: a directory, taken as it is and never written to [default: the configuration's, else
    /// ~/klipper, else ~/kalico]
    #[arg(long, value_name = "DIR", conflicts_with = "git")]
    klipper: Option<PathBuf>,
    /// A git repository to take the tree from; it is cloned into the cache once
    #[arg(long, value_name = "URL")]
    git: Option<String>,
    /// The branch, tag or commit to build, whatever is checked out; or "host": the commit that the printer's own Klipper
    /// runs, as its Moonraker says
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
}

/// Why there is no tree.
#[derive(Clone, Debug)]
pub enum NoTree {
    /// None is named, and none is where trees usually are.
    None,
    /// Nothing can look at one: git is not installed.
    NoGit,
    /// The one that is named is no good.
    Bad(Box<Failure>),
}

/// Where trees are looked for and kept.
pub struct Trees<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The printer that it is for, where that is known.
    pub printer: Option<&'a Printer>,
    /// Keeps what is cloned.
    pub cache: &'a Cache,
    /// What git sees of the environment.
    pub environment: &'a Environment,
    /// Stops it.
    pub interrupt: &'a Interrupt,
}

/// What git, make and the compilers see of this process's environment.
pub fn environment() -> Environment {
    Environment::of(env::vars_os())
}

/// The only printer of `config` that has one of these boards.
pub fn printer_of<'a>(config: &'a Config, boards: &[String]) -> Option<&'a Printer> {
    let has = |printer: &&Printer| printer.boards.iter().any(|board| boards.contains(&board.board));
    let mut printers = config.printers.iter().filter(has);
    printers.next().filter(|_| printers.next().is_none())
}

impl TreeArgs {
    /// Whether a tree is named.
    pub fn is_named(&self) -> bool {
        self.klipper.is_some() || self.git.is_some() || self.reference.is_some()
    }

    /// Whether it is what the printer's host runs.
    pub fn is_host(&self) -> bool {
        self.reference.as_deref() == Some(GitTree::HOST)
    }

    /// The same as options of another command.
    pub fn options(&self) -> Vec<String> {
        let klipper = self.klipper.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let options = [("--klipper", klipper), ("--git", self.git.clone()), ("--ref", self.reference.clone())];
        options.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten().collect()
    }

    /// The tree that is meant.
    pub fn find(&self, trees: &Trees<'_>) -> Result<Tree, NoTree> {
        let reference = self.reference.as_deref();
        match (&self.git, &self.klipper, trees.config.tree_of(trees.printer)) {
            (Some(url), ..) => trees.fetch(url, reference),
            (None, Some(dir), _) | (None, None, Some(config::Tree::Directory(dir))) => trees.at(dir, reference),
            (None, None, Some(config::Tree::Git(tree))) => {
                trees.fetch(&tree.git, reference.or(tree.reference.as_deref()))
            }
            (None, None, None) => trees.usual(reference),
        }
    }
}

impl Trees<'_> {
    fn at(&self, dir: &Path, reference: Option<&str>) -> Result<Tree, NoTree> {
        Ok(match self.resolved(reference)? {
            None => Tree::at(dir, self.environment, self.interrupt)?,
            Some(reference) => Tree::at_reference(dir, &reference, self.environment, self.interrupt)?,
        })
    }

    fn fetch(&self, url: &str, reference: Option<&str>) -> Result<Tree, NoTree> {
        let reference = self.resolved(reference)?;
        let mut shown = None;
        let mut progress = |line: &str| {
            let now = tenth(line);
            if now.is_none() || shown != now {
                render::note(line);
            }
            shown = now;
        };
        let reference = reference.as_deref();
        Ok(Tree::fetch(url, reference, self.cache, self.environment, self.interrupt, &mut progress)?)
    }

    /// The one that is where trees usually are.
    fn usual(&self, reference: Option<&str>) -> Result<Tree, NoTree> {
        let found = match Tree::first_of(&usual(), self.environment, self.interrupt) {
            Err(TreeError::NoneOf(_)) => return Err(NoTree::None),
            found => found?,
        };
        match (reference, found.dir()) {
            (Some(_), Some(dir)) => self.at(dir, reference),
            _ => Ok(found),
        }
    }

    /// What git is asked for.
    fn resolved(&self, reference: Option<&str>) -> Result<Option<String>, Failure> {
        match reference {
            Some(GitTree::HOST) => Ok(Some(host_version(self.config, self.printer)?)),
            reference => Ok(reference.map(str::to_owned)),
        }
    }
}

/// What git is doing, and how many tenths of it are done: `remote: Counting objects:  42% (123/292)`.
fn tenth(line: &str) -> Option<(String, u32)> {
    let (before, _) = line.split_once('%')?;
    let what = before.trim_end_matches(|c: char| c.is_ascii_digit());
    let percent: u32 = before[what.len()..].parse().ok()?;
    Some((what.trim_end().to_owned(), percent / 10))
}

/// Where Klipper and Kalico are usually installed.
fn usual() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    home.map(|home| vec![home.join("klipper"), home.join("kalico")]).unwrap_or_default()
}

impl From<TreeError> for NoTree {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::NoGit => Self::NoGit,
            error => Self::Bad(Box::new(error.into())),
        }
    }
}

impl From<Failure> for NoTree {
    fn from(failure: Failure) -> Self {
        Self::Bad(Box::new(failure))
    }
}

impl From<NoTree> for Failure {
    fn from(none: NoTree) -> Self {
        match none {
            NoTree::None => TreeError::NoneOf(usual()).into(),
            NoTree::NoGit => TreeError::NoGit.into(),
            NoTree::Bad(failure) => *failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_gits_progress_each_tenth_is_told() {
        let counting = |tenth| Some(("remote: Counting objects:".to_owned(), tenth));
        assert_eq!(tenth("remote: Counting objects:   9% (27/292)"), counting(0));
        assert_eq!(tenth("remote: Counting objects: 100% (292/292), done."), counting(10));
        assert_eq!(tenth("Cloning into 'klipper'..."), None);
        assert_eq!(tenth("% of what?"), None);
    }
}
