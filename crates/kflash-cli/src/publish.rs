//! `kflash publish`: an index of what the cache holds, for others to fetch from.

use std::path::{Path, PathBuf};
use std::{fs, io};

use kflash::boards;
use kflash::exit::ExitCode;
use kflash::obtain::fetch::publish::{Publication, PublishError, Published, publish};
use kflash::obtain::fetch::{SecretFile, Signer, Url};
use kflash::timestamp::Timestamp;
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::render;
use crate::sheet::{Sheet, shown};
use crate::target::find_board;

/// Publishes the images of the cache for other machines to fetch
///
/// Writes DIR/index.json, its signature DIR/index.json.minisig, and the images it names to DIR/images: any web server, or
/// a shared directory, can serve them. So one machine builds for a farm. Of a board and route, the image of the latest
/// commit comes first: it is the one that `kflash fetch` takes. What was built from a tree with changes or with other
/// symbols than the board's profile has, given as a file, or fetched by an index that nobody signed, is left out.
///
/// `minisign -G` makes a pair of keys: the secret one is for --sign here, the public one for `kflash fetch --key` on the
/// printers. `minisign -G -W` makes one without a passphrase, for machines that publish by themselves. An index that is
/// not signed is taken by nobody who does not say --allow-unsigned.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash publish --out /srv/firmware --sign ~/.minisign/minisign.key
  kflash publish --out /srv/firmware --sign farm.key -b btt-octopus-v1.1-f446 -b btt-ebb36-v1.2
  kflash publish --out index --sign farm.key --base-url https://cdn.example/firmware")]
pub struct Args {
    /// Where to: a directory, made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only the images of this board: an id or alias from `kflash boards`, or the path of a profile file. May be given
    /// several times [default: all that `kflash boards` lists]
    #[arg(long = "board", short, value_name = "BOARD")]
    boards: Vec<String>,
    /// Sign with this minisign secret key; if it has a passphrase, it is asked for on the terminal
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// The URL that DIR will be served at, if the index is to be copied elsewhere [default: images are named beside it]
    #[arg(long, value_name = "URL", value_parser = url)]
    base_url: Option<Url>,
}

/// The result as JSON.
#[derive(Serialize)]
struct Ended<'a> {
    result: &'static str,
    #[serde(flatten)]
    published: &'a Published,
    exit_code: u8,
    exit: ExitCode,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let boards = match &args.boards[..] {
        [] => boards::builtin().map_err(|error| Failure::usage(error.to_string()))?,
        named => named.iter().map(|board| find_board(board)).collect::<Result<_, _>>()?,
    };
    let cache = shared.cache()?;
    let signer = args.sign.as_deref().map(signer).transpose()?;
    let published = publish(&Publication {
        cache: &cache,
        out: &args.out,
        boards: &boards,
        base: args.base_url.as_ref(),
        signer: signer.as_ref(),
        now: Timestamp::now(),
    })?;
    if shared.json {
        let exit = ExitCode::Ok;
        render::result_json(&Ended { result: "published", published: &published, exit_code: exit.code(), exit });
    } else {
        render::result(&text(&published));
    }
    Ok(ExitCode::Ok)
}

fn url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| error.problem.to_owned())
}

/// The key in the file at `path`, with its passphrase from the terminal.
fn signer(path: &Path) -> Result<Signer, Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| usage(&error))?;
    let file = SecretFile::parse(&text).map_err(|error| usage(&error))?;
    let passphrase = if file.encrypted() {
        let asked = rpassword::prompt_password(format!("Passphrase of {}: ", path.display()));
        asked.map_err(|error: io::Error| {
            let hint = "a key that `minisign -G -W` makes takes no passphrase".to_owned();
            let failure = usage(&format_args!("its passphrase cannot be asked for: {error}"));
            Failure { hint: Some(hint), ..failure }
        })?
    } else {
        String::new()
    };
    file.open(&passphrase).map_err(|error| usage(&error))
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let (details, hint): (_, Option<&str>) = match &error {
            PublishError::Nothing { left_out, .. } => (
                left_out.iter().map(|one| format!("{}: {}", one.image, one.why)).collect(),
                Some("`kflash build` fills the cache, `kflash cache list` shows it"),
            ),
            PublishError::NotAnIndex { .. } => (Vec::new(), Some("--out is for a directory that holds nothing else")),
            _ => (Vec::new(), None),
        };
        Self { details, hint: hint.map(str::to_owned), ..Self::new(error.exit(), error.to_string()) }
    }
}

fn text(published: &Published) -> String {
    let mut sheet = Sheet::new(&format!("Published: {}", published.index.display()));
    if published.key.is_none() {
        sheet.line("WARNING", "not signed: fetching it takes --allow-unsigned");
    }
    sheet.line("created", &format!("{}, serial {}", published.created, published.serial));
    sheet.lines(
        "images",
        published.images.iter().map(|image| {
            let route = image.route.as_ref().map_or_else(String::new, |route| format!(", route {route}"));
            format!("{}{route}: {} {}", image.board, shown(&image.app), shown(&image.version))
        }),
    );
    sheet.lines("left out", published.left_out.iter().map(|one| format!("{}: {}", one.image, shown(&one.why))));
    if let Some(key) = &published.key {
        sheet.line("signed by", &format!("key {}", key.id));
        sheet.line("fetch with", &format!("--key {}", key.base64));
    }
    sheet.into_text()
}
