//! What fetching takes: index, key, certificates, proxies, from options, configuration and environment.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{env, io};

use kflash::obtain::fetch::{Location, Net, Patience, Proxies, PublicKey, Source};

use crate::args::Shared;
use crate::failure::Failure;

/// More than any file of keys or certificates needs: Debian's bundle has a quarter of a megabyte.
const LARGEST: u64 = 4 << 20;

/// Where prebuilt firmware comes from, and who vouches for it.
#[derive(clap::Args, Debug, Default)]
pub struct MeansArgs {
    /// The index: an https:// or file:// URL, a path, or http:// on this machine itself [default: the configuration's]
    #[arg(long, value_name = "INDEX")]
    from: Option<String>,
    /// The minisign public key that the index has to be signed with: its line that begins with RW, or a file [default:
    /// the configuration's]
    #[arg(long, value_name = "KEY", conflicts_with = "allow_unsigned")]
    key: Option<String>,
    /// Take an index whose signature nobody checks. Whoever can change it, or what is on the way to it, then decides
    /// what runs on the board
    #[arg(long)]
    allow_unsigned: bool,
    /// Take an index that is older than one that was seen before
    #[arg(long)]
    allow_old: bool,
    /// Certificate authorities, in PEM form, to trust instead of the usual ones [default: the configuration's, else those
    /// in $SSL_CERT_FILE]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// What fetching takes.
#[derive(Debug)]
pub struct Means {
    /// The way to servers.
    pub net: Net,
    /// The index, and who vouches for it.
    pub source: Source,
}

impl MeansArgs {
    /// Whether an index is named.
    pub fn is_named(&self) -> bool {
        self.from.is_some()
    }

    /// All of it, with what the options leave open from the configuration and the environment.
    pub fn resolve(&self, shared: &Shared) -> Result<Means, Failure> {
        let configured = shared.configuration()?.config.fetch;
        let index = self.from.as_deref().or(configured.as_ref().map(|fetch| fetch.index.as_str()));
        let Some(index) = index else {
            let hint = "--from names an index; so does [fetch] in the configuration, for all runs".to_owned();
            return Err(Failure { hint: Some(hint), ..Failure::usage("no index to fetch from") });
        };
        let index = Location::parse(index).map_err(|error| Failure::usage(error.to_string()))?;
        // The key and the authorities of the configuration are those of its index.
        let configured = configured.filter(|_| self.from.is_none());
        let key = self.key.as_deref().or(configured.as_ref().and_then(|fetch| fetch.key.as_deref()));
        let key = match key {
            _ if self.allow_unsigned => None,
            Some(key) => Some(public_key(key)?),
            None => {
                let hint =
                    "--key names the publisher's minisign key; --allow-unsigned does without, and trusts everybody";
                let message = format!("no key to check the signature of {index} with");
                return Err(Failure { hint: Some(hint.to_owned()), ..Failure::usage(message) });
            }
        };
        let ca = self.ca.clone().or_else(|| configured.and_then(|fetch| fetch.ca));
        let source = Source { index, key, allow_old: self.allow_old };
        Ok(Means { net: net(ca)?, source })
    }
}

/// The way to servers: with these authorities, or those of the environment.
fn net(ca: Option<PathBuf>) -> Result<Net, Failure> {
    let ca = ca.or_else(|| env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()).map(PathBuf::from));
    let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let pem = ca.as_deref().map(read).transpose()?;
    // In small letters first, as curl has it.
    let variable = |names: [&str; 2]| names.iter().find_map(|name| env::var(name).ok());
    let proxies = Proxies::new(
        variable(["https_proxy", "HTTPS_PROXY"]).as_deref(),
        variable(["all_proxy", "ALL_PROXY"]).as_deref(),
        variable(["no_proxy", "NO_PROXY"]).as_deref(),
    );
    let proxies = proxies.map_err(|error| usage(&error))?;
    Net::new(pem.as_deref(), proxies, Patience::default())
        .map_err(|error| usage(&format_args!("{}: {error}", ca.unwrap_or_default().display())))
}

/// The key in a text, or in the file that the text names.
fn public_key(text: &str) -> Result<PublicKey, Failure> {
    if let Ok(key) = PublicKey::parse(text) {
        return Ok(key);
    }
    let path = Path::new(text);
    let bytes = read(path)?;
    let key = str::from_utf8(&bytes).ok().and_then(|text| PublicKey::parse(text).ok());
    key.ok_or_else(|| Failure::usage(format!("{}: no minisign public key", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    // Opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a file")));
    }
    File::open(path).map_err(unreadable)?.take(LARGEST).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
