//! make: run in a snapshot of the tree, with all that it makes outside of it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::Environment;
use super::child::{self, ChildError, Limits, Streams};
use super::jobserver::JobServer;
use crate::exit::ExitCode;
use crate::flash::Interrupt;
use crate::image::MAX_FILE;

/// A Klipper tree builds in seconds on a PC and in minutes on the smallest Raspberry Pi.
const LIMITS: Limits =
    Limits { time: Duration::from_secs(2 * 3600), silence: Duration::from_secs(20 * 60), output: 64 << 20 };
/// What the log's last lines may take in an error.
const LAST_LINES: usize = 20;
/// Longest line that is kept; the log has it whole.
const LONGEST_LINE: usize = 400;
/// Largest dictionary that is read. Firmware could not hold it.
const LARGEST_DICTIONARY: u64 = 1 << 20;
/// Largest configuration that is read; Klipper's have 4 KiB.
const LARGEST_CONFIG: u64 = 1 << 20;
/// What the build says before each step that takes time: an object, and the link, in which all is compiled once more.
const STEPS: [&[u8]; 2] = [b"  Compiling ", b"  Linking "];
/// Images that a build leaves, the best to flash first: one without what a bootloader or a debugger adds.
const IMAGES: [&str; 3] = ["klipper.bin", "klipper.uf2", "klipper.elf.hex"];

/// A build in a directory of its own.
#[derive(Debug)]
pub struct Workplace<'a> {
    /// The tree. In the directory that it lies in, where nothing else may be, are the configuration and what is built:
    /// relative to the tree these paths are always the same, and leave no trace in what is built.
    pub tree: &'a Path,
    /// Where make's output is kept.
    pub log: &'a Path,
    /// What the children see of the environment.
    pub environment: &'a Environment,
    /// Stops it.
    pub interrupt: &'a Interrupt,
}

/// What make made.
#[derive(Debug)]
pub struct Made {
    /// The image file's name: `klipper.bin`.
    pub name: &'static str,
    /// Its bytes.
    pub image: Vec<u8>,
    /// `klipper.dict`: the data dictionary as JSON.
    pub dictionary: Vec<u8>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// make splits names at blanks and expands them, as the shell does that it calls.
    #[error("make cannot work in {}: {character:?} has a meaning to it", path.display())]
    Path {
        /// The directory.
        path: PathBuf,
        /// The character.
        character: char,
    },
    /// The build failed.
    #[error("make failed ({status}); its output is in {}", log.display())]
    Failed {
        /// How make ended.
        status: ExitStatus,
        /// Its last lines.
        last: Vec<String>,
        /// All of its output.
        log: PathBuf,
    },
    /// make was stopped.
    #[error("{error}; its output is in {}", log.display())]
    Stopped {
        /// Why.
        error: ChildError,
        /// Its output so far.
        log: PathBuf,
    },
    /// make says that all went well, but what it was asked for is not there.
    #[error("make left no {what} behind; its output is in {}", log.display())]
    Nothing {
        /// What is missing.
        what: &'static str,
        /// Its output.
        log: PathBuf,
    },
    /// make changed the configuration while it built: the image is for another one.
    #[error("the tree's build changed its own configuration; its output is in {}", log.display())]
    Reconfigured {
        /// Its output.
        log: PathBuf,
    },
    /// The menu ended badly.
    #[error("the tree's menuconfig failed ({status})")]
    Menu {
        /// How make ended.
        status: ExitStatus,
    },
    /// A file or directory of the build.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `write`, `read`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl MakeError {
    /// The exit code.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Stopped { error, .. } => error.exit(),
            _ => ExitCode::Build,
        }
    }

    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// The first character of `path` that make, or the shell behind it, would not take as itself.
pub fn unfit(path: &Path) -> Option<char> {
    let fits = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "/._-+,@=".contains(c);
    path.to_string_lossy().chars().find(|&c| !fits(c) || c == char::REPLACEMENT_CHARACTER)
}

impl Workplace<'_> {
    /// Lets the tree's own Kconfig make a whole configuration of `request`, and leaves it in `config`.
    pub fn configure(&self, request: &str) -> Result<Vec<u8>, MakeError> {
        self.check()?;
        let config = self.tree.with_file_name("config");
        fs::write(&config, request).map_err(MakeError::io("write", &config))?;
        let mut command = self.command("../configure/");
        command.arg("olddefconfig");
        let mut printed = Vec::new();
        let status = child::run(command, Streams::Merged, LIMITS, self.interrupt, |_, data| {
            printed.extend_from_slice(data);
        });
        let failed = match status {
            Ok(status) if status.success() => return read(&config, LARGEST_CONFIG),
            Ok(status) => {
                let mut lines = Lines::default();
                lines.take(&printed);
                MakeError::Failed { status, last: lines.last(), log: self.log.to_owned() }
            }
            Err(error) => MakeError::Stopped { error, log: self.log.to_owned() },
        };
        fs::write(self.log, &printed).map_err(MakeError::io("write", self.log))?;
        Err(failed)
    }

    /// Opens the tree's own menu of the configuration in `config`, on the terminal of this process, and returns what it
    /// saved.
    pub fn menuconfig(&self) -> Result<Vec<u8>, MakeError> {
        self.check()?;
        let mut command = self.command("../configure/");
        // In the foreground, or it could not read the keys.
        let status = command.arg("menuconfig").status().map_err(|source| {
            let program = "make".to_owned();
            MakeError::Stopped { error: ChildError::Unstartable { program, source }, log: self.log.to_owned() }
        })?;
        if !status.success() {
            return Err(MakeError::Menu { status });
        }
        read(&self.tree.with_file_name("config"), LARGEST_CONFIG)
    }

    fn check(&self) -> Result<(), MakeError> {
        match unfit(self.tree) {
            Some(character) => Err(MakeError::Path { path: self.tree.to_owned(), character }),
            None => Ok(()),
        }
    }

    /// Builds the tree as `config` says, a whole configuration, with as many `jobs` at once as there are. `progress` gets
    /// the number of objects done, and of all, the linked one among them; never more than all.
    pub fn make(
        &self,
        config: &str,
        jobs: &JobServer,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Made, MakeError> {
        self.check()?;
        let path = self.tree.with_file_name("config");
        fs::write(&path, config).map_err(MakeError::io("write", &path))?;
        let total = self.steps()?;
        let mut log = File::create(self.log).map_err(MakeError::io("write", self.log))?;
        let mut lines = Lines::default();
        let mut written = Ok(());
        progress(0, total);

        let mut command = self.command("../out/");
        command.env("MAKEFLAGS", jobs.makeflags()).arg("all");
        let status = child::run(command, Streams::Merged, LIMITS, self.interrupt, |_, data| {
            if written.is_ok() {
                written = log.write_all(data);
            }
            if lines.take(data) {
                // Each says that it begins, so that the one before it is done.
                progress((lines.steps - 1).min(total), total);
            }
        })
        .map_err(|error| MakeError::Stopped { error, log: self.log.to_owned() })?;
        written.map_err(MakeError::io("write", self.log))?;
        if !status.success() {
            return Err(MakeError::Failed { status, last: lines.last(), log: self.log.to_owned() });
        }
        if read(&path, LARGEST_CONFIG)? != config.as_bytes() {
            return Err(MakeError::Reconfigured { log: self.log.to_owned() });
        }
        let made = self.made()?;
        progress(total, total);
        Ok(made)
    }

    fn command(&self, out: &str) -> Command {
        let mut command = self.environment.command("make");
        command.current_dir(self.tree).arg(format!("OUT={out}")).arg("KCONFIG_CONFIG=../config");
        command
    }

    /// How many objects make would make, as it says itself.
    fn steps(&self) -> Result<usize, MakeError> {
        let mut command = self.command("../out/");
        command.args(["-n", "all"]);
        let captured = child::capture(command, LIMITS, self.interrupt)
            .map_err(|error| MakeError::Stopped { error, log: self.log.to_owned() })?;
        // What is printed are the commands, among them those that say what begins. If this fails, make says why later.
        let says = |line: &[u8], step: &[u8]| line.windows(step.len()).any(|part| part == step);
        let lines = captured.out.split(|byte| *byte == b'\n');
        Ok(lines.filter(|line| STEPS.iter().any(|step| says(line, step))).count())
    }

    fn made(&self) -> Result<Made, MakeError> {
        let out = self.tree.with_file_name("out");
        let nothing = |what| MakeError::Nothing { what, log: self.log.to_owned() };
        let is_there = |name: &&str| fs::symlink_metadata(out.join(name)).is_ok_and(|meta| meta.is_file());
        let name = IMAGES.into_iter().find(is_there).ok_or_else(|| nothing("image"))?;
        if !is_there(&"klipper.dict") {
            return Err(nothing("klipper.dict"));
        }
        let image = read(&out.join(name), MAX_FILE as u64)?;
        let dictionary = read(&out.join("klipper.dict"), LARGEST_DICTIONARY)?;
        Ok(Made { name, image, dictionary })
    }
}

fn read(path: &Path, largest: u64) -> Result<Vec<u8>, MakeError> {
    let mut bytes = Vec::new();
    // One byte more, so that a larger one is not taken for a whole one: it will not parse.
    let read = File::open(path).and_then(|file| file.take(largest + 1).read_to_end(&mut bytes));
    read.map_err(MakeError::io("read", path))?;
    Ok(bytes)
}

/// What make prints, in lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    last: VecDeque<String>,
    steps: usize,
}

impl Lines {
    /// Takes what was printed; whether another step was begun.
    fn take(&mut self, data: &[u8]) -> bool {
        let before = self.steps;
        let mut lines = data.split(|byte| *byte == b'\n');
        let rest = lines.next_back();
        for line in lines {
            self.append(line);
            self.end();
        }
        if let Some(rest) = rest {
            self.append(rest);
        }
        self.steps > before
    }

    fn append(&mut self, part: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.partial);
        self.steps += usize::from(STEPS.iter().any(|step| line.starts_with(step)));
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(String::from_utf8_lossy(&line).into_owned());
    }

    fn last(mut self) -> Vec<String> {
        self.end();
        self.last.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_however_they_are_cut() {
        let text = b"  Building ../out/autoconf.h\n  Compiling ../out/src/sched.o\n\n  Linking ../out/klipper.elf\nend";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let steps = text.chunks(size).filter(|part| lines.take(part)).count();
            assert!(lines.steps == 2 && steps <= 2, "{size}");
            let last =
                ["  Building ../out/autoconf.h", "  Compiling ../out/src/sched.o", "  Linking ../out/klipper.elf"];
            assert_eq!(lines.last(), [&last[..], &["end"]].concat());
        }
    }

    #[test]
    fn little_is_kept_of_much() {
        let mut lines = Lines::default();
        for n in 0..1000 {
            lines.take(format!("{n} \u{1b}[2J{}\n", "x".repeat(10_000)).as_bytes());
        }
        let last = lines.last();
        assert_eq!(last.len(), LAST_LINES);
        assert!(last[0].starts_with("980 ") && last.iter().all(|line| line.len() == LONGEST_LINE), "{last:?}");
    }

    #[test]
    fn make_is_not_run_where_a_path_means_something_to_it() {
        assert_eq!(unfit(Path::new("/home/jörg/.cache/kflash-1.0/tmp/build@2+3")), None);
        for (path, character) in [("/home/a b", ' '), ("/x$(id)", '$'), ("/x#y", '#'), ("/x:y", ':'), ("/x\ny", '\n')] {
            assert_eq!(unfit(Path::new(path)), Some(character));
        }
    }
}
