//! What git, make and the compilers see of the caller's environment.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{Access, access};

/// Variables that a build may see. All else stays outside: a person's `MAKEFLAGS`, `OUT`, `KCONFIG_CONFIG`,
/// `CROSS_PREFIX` or `PYTHONPATH` would change the firmware, their `GIT_DIR` the tree.
const PASSED: [&str; 4] = ["PATH", "HOME", "USER", "TMPDIR"];

/// What git needs beside those to reach a server.
const NETWORK: [&str; 15] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSH_AUTH_SOCK",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "XDG_CONFIG_HOME",
];

/// The part of the caller's environment that child processes get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    variables: Vec<(OsString, OsString)>,
}

impl Environment {
    /// Keeps of `variables` (in the command: all of the process's own) what a build may see.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let known = |name: &OsStr| PASSED.iter().chain(&NETWORK).any(|known| name == *known);
        Self { variables: variables.into_iter().filter(|(name, _)| known(name)).collect() }
    }

    /// `program`, looked for on the `PATH`, with a clean environment. Python leaves no `__pycache__` behind, messages
    /// are in English, and nothing asks at the terminal.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.with(&PASSED, program.as_ref())
    }

    /// As [`command`](Self::command), for programs that reach servers: proxies, certificates and the SSH agent, too.
    pub fn network_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.with(&PASSED, program.as_ref());
        command.envs(self.of_list(&NETWORK));
        command
    }

    /// Where `program` is on the `PATH`.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let (_, path) = self.variables.iter().find(|(name, _)| name == "PATH")?;
        let is_program = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
        std::env::split_paths(path).map(|folder| folder.join(program)).find(is_program)
    }

    fn with(&self, names: &[&str], program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.of_list(names));
        command.env("LC_ALL", "C").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn of_list(&self, names: &[&str]) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let listed = move |name: &OsStr| names.iter().any(|listed| name == *listed);
        self.variables
            .iter()
            .filter(move |(name, _)| listed(name))
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn seen(command: &mut Command) -> String {
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn only_what_is_listed_is_passed_on() {
        let variables = [
            ("PATH", std::env::var("PATH").unwrap()),
            ("MAKEFLAGS", "-n".to_owned()),
            ("CROSS_PREFIX", "evil-".to_owned()),
            ("GIT_DIR", "/elsewhere".to_owned()),
            ("https_proxy", "http://proxy:3128".to_owned()),
        ];
        let environment = Environment::of(variables.map(|(name, value)| (name.into(), value.into())));
        let path = std::env::var("PATH").unwrap();
        let plain = format!("LC_ALL=C\nPATH={path}\nPYTHONDONTWRITEBYTECODE=1\n");
        assert_eq!(seen(&mut environment.command("env")), plain);
        assert_eq!(seen(&mut environment.network_command("env")), format!("{plain}https_proxy=http://proxy:3128\n"));
    }
}
