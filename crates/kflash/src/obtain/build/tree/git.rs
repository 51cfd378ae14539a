//! git, run on a repository that may be another person's: it takes no locks, runs no hooks, asks nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::TreeError;
use super::url::{PROTOCOLS, hide_credentials, without_credentials};
use crate::flash::Interrupt;
use crate::obtain::build::Environment;
use crate::obtain::build::child::{self, ChildError, Limits, Stream, Streams};

/// What one command on a local repository may take; checking out onto an SD card is slow.
const LOCAL: Limits = Limits { time: Duration::from_secs(600), silence: Duration::from_secs(600), output: 64 << 20 };
/// What fetching may take: Klipper's history is about 100 MiB, and git tells each percent of it.
const NETWORK: Limits =
    Limits { time: Duration::from_secs(4 * 3600), silence: Duration::from_secs(300), output: 64 << 20 };

/// Configuration of every command. A repository that another user may have written must not make git run a program;
/// and nothing is left running behind in it.
const CONFIG: [&str; 10] = [
    "-c",
    "core.fsmonitor=",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "core.pager=cat",
];

/// Where a repository lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// Its git directory, or the `.git` file of a linked worktree or submodule. It is always named to git, and not
    /// looked for: then git does not refuse it for having another owner (`safe.directory`).
    pub git_dir: PathBuf,
    /// Its work tree.
    pub work_tree: Option<PathBuf>,
    /// How messages name it.
    pub place: String,
}

/// Runs git.
#[derive(Clone, Copy)]
pub(super) struct Git<'a> {
    pub environment: &'a Environment,
    pub interrupt: &'a Interrupt,
}

impl Git<'_> {
    /// What `git ARGUMENTS` prints on `repository`.
    pub fn read<A: AsRef<OsStr>>(&self, repository: &Repository, arguments: &[A]) -> Result<Vec<u8>, TreeError> {
        match self.ask(repository, arguments)? {
            Ok(out) => Ok(out),
            Err(message) => Err(TreeError::Git { place: repository.place.clone(), command: name(arguments), message }),
        }
    }

    /// As [`read`](Self::read), one line of text.
    pub fn line<A: AsRef<OsStr>>(&self, repository: &Repository, arguments: &[A]) -> Result<String, TreeError> {
        Ok(String::from_utf8_lossy(&self.read(repository, arguments)?).trim().to_owned())
    }

    /// What `git ARGUMENTS` prints on `repository`, or its last words if it fails.
    pub fn ask<A: AsRef<OsStr>>(
        &self,
        repository: &Repository,
        arguments: &[A],
    ) -> Result<Result<Vec<u8>, String>, TreeError> {
        let mut command = local(self.environment.command("git"));
        command.arg("--git-dir").arg(&repository.git_dir);
        if let Some(work_tree) = &repository.work_tree {
            command.arg("--work-tree").arg(work_tree).current_dir(work_tree);
        }
        command.args(arguments);
        let failed = |error| failed(error, &repository.place, &name(arguments));
        let captured = child::capture(command, LOCAL, self.interrupt).map_err(failed)?;
        Ok(if captured.status.success() { Ok(captured.out) } else { Err(last_words(&captured.err)) })
    }

    /// Makes a bare repository at `dir`, which may be a half-made one.
    pub fn init_bare(&self, dir: &Path) -> Result<(), TreeError> {
        let mut command = local(self.environment.command("git"));
        // No template: it may hold hooks.
        command.args(["init", "--quiet", "--bare", "--template=", "--"]).arg(dir);
        let place = dir.display().to_string();
        let captured = child::capture(command, LOCAL, self.interrupt).map_err(|error| failed(error, &place, "init"))?;
        if captured.status.success() {
            return Ok(());
        }
        Err(TreeError::Git { place, command: "init".to_owned(), message: last_words(&captured.err) })
    }

    /// Fetches `refspecs` of `url` into the bare repository `git_dir`.
    pub fn fetch(
        &self,
        git_dir: &Path,
        url: &str,
        refspecs: &[OsString],
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), TreeError> {
        let mut command = local(self.environment.network_command("git"));
        command.env("GIT_ALLOW_PROTOCOL", PROTOCOLS);
        // An empty program asks nobody. No host key and no passphrase is asked for either: there may be no terminal.
        command.env("GIT_ASKPASS", "").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30");
        command.args(["-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=60"]);
        command.arg("--git-dir").arg(git_dir);
        command.args(["fetch", "--progress", "--prune", "--no-tags", "--no-recurse-submodules", "--force"]);
        if super::url::directory(url).is_some() {
            // The other side of a local fetch looks at the owner, too, and does not see our configuration.
            command.args(["--upload-pack", "git -c safe.directory=* upload-pack"]);
        }
        command.arg("--").arg(url).args(refspecs);
        let shown = without_credentials(url);
        let mut words = Vec::new();
        let status = child::run(command, Streams::Apart, NETWORK, self.interrupt, |stream, data| {
            if stream == Stream::Err {
                words.extend_from_slice(data);
                // Progress overwrites its line; the last whole one is told, and the tail is kept for a failure.
                let mut lines = words.split(|byte| [b'\r', b'\n'].contains(byte)).rev().skip(1);
                if let Some(line) = lines.next() {
                    progress(&String::from_utf8_lossy(line));
                }
                words.drain(..words.len().saturating_sub(8 << 10));
            }
        });
        match status.map_err(|error| failed(error, &shown, "fetch")) {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(TreeError::Fetch { message: hide_credentials(&last_words(&words), url), url: shown }),
            Err(TreeError::Git { message, .. }) => Err(TreeError::Fetch { url: shown, message }),
            Err(error) => Err(error),
        }
    }
}

fn local(mut command: Command) -> Command {
    command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_NO_LAZY_FETCH", "1").args(CONFIG);
    command
}

/// The command among its arguments.
fn name<A: AsRef<OsStr>>(arguments: &[A]) -> String {
    let mut arguments = arguments.iter().map(AsRef::as_ref);
    let is_option = |argument: &&OsStr| *argument == "-c";
    let mut name = arguments.next();
    while name.as_ref().is_some_and(is_option) {
        name = arguments.nth(1);
    }
    name.unwrap_or_default().to_string_lossy().into_owned()
}

fn failed(error: ChildError, place: &str, command: &str) -> TreeError {
    match error {
        ChildError::Missing { .. } => TreeError::NoGit,
        ChildError::Interrupted { .. } => TreeError::Interrupted,
        error => TreeError::Git { place: place.to_owned(), command: command.to_owned(), message: error.to_string() },
    }
}

/// The last lines that git printed to its standard error, without its advice.
fn last_words(err: &[u8]) -> String {
    let text = String::from_utf8_lossy(err);
    let lines = text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint:"));
    let mut last: Vec<&str> = lines.rev().take(3).collect();
    last.reverse();
    let words = last.join("; ");
    let words = words.strip_prefix("fatal: ").unwrap_or(&words);
    if words.is_empty() {
        return "it says nothing".to_owned();
    }
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

/// Paths as git prints them with `-z`.
pub(super) fn paths(list: &[u8]) -> impl Iterator<Item = &Path> {
    list.split(|&byte| byte == 0).filter(|path| !path.is_empty()).map(|path| Path::new(OsStr::from_bytes(path)))
}
