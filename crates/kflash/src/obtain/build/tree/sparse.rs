//! A work tree that holds only some of its commit's files (`git sparse-checkout`). It is built as it is: its repository
//! need not have the others, either.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::TreeError;
use super::git::{Git, Repository};
use crate::digest::Sha256;

/// Which files it holds.
pub(super) struct Sparse {
    patterns: Vec<u8>,
    cone: bool,
}

impl Sparse {
    /// Which files the work tree of a repository holds; `None` if it holds all.
    pub fn of(git: &Git<'_>, repository: &Repository) -> Result<Option<Self>, TreeError> {
        let Some(work_tree) = &repository.work_tree else { return Ok(None) };
        let flag = |name| -> Result<Option<bool>, TreeError> {
            let value = git.ask(repository, &["config", "--type=bool", "--get", name])?;
            Ok(value.ok().map(|value| value.trim_ascii() == b"true"))
        };
        if flag("core.sparseCheckout")? != Some(true) {
            return Ok(None);
        }
        let path = work_tree.join(git.line(repository, &["rev-parse", "--git-path", "info/sparse-checkout"])?);
        match fs::read(&path) {
            Ok(patterns) => Ok(Some(Self { patterns, cone: flag("core.sparseCheckoutCone")?.unwrap_or(true) })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TreeError::io(&path)(error)),
        }
    }

    /// What tells it from others, as a word of 16 digits.
    pub fn id(&self) -> String {
        let digest = Sha256::of(&[&self.patterns[..], &[u8::from(self.cone)]].concat());
        digest.to_string().chars().take(16).collect()
    }

    /// The options with which git checks out no more, once the patterns are in `git_dir`.
    pub fn apply(&self, git_dir: &Path) -> Result<[String; 4], TreeError> {
        let info = git_dir.join("info");
        let write = || {
            fs::create_dir_all(&info)?;
            fs::write(info.join("sparse-checkout"), &self.patterns)
        };
        write().map_err(TreeError::io(&info))?;
        let cone = format!("core.sparseCheckoutCone={}", self.cone);
        Ok(["-c".into(), "core.sparseCheckout=true".into(), "-c".into(), cone])
    }
}
