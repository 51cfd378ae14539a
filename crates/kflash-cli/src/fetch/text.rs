//! What came of fetching, as text or as the last line of JSON.

use std::path::{Path, PathBuf};

use kflash::event::Check;
use kflash::exit::ExitCode;
use kflash::obtain::fetch::{Believed, FetchedImage};
use kflash::obtain::provenance::Provenance;
use kflash::timestamp::Timestamp;
use serde::Serialize;

use crate::failure::{Failure, FailureJson};
use crate::render;
use crate::sheet::{Sheet, shown};
use crate::which::Wanted;

/// How it ended.
pub struct Ended<'a> {
    /// The index.
    pub believed: &'a Believed,
    /// The boards.
    pub wanted: &'a [Wanted],
    /// The image of each and the file that it lies in, or why there is none.
    pub images: Vec<Result<(FetchedImage, PathBuf), Failure>>,
}

/// The last line of JSON.
#[derive(Serialize)]
struct EndedJson<'a> {
    result: &'static str,
    index: IndexShown<'a>,
    warnings: Vec<&'static str>,
    boards: Vec<BoardEnded<'a>>,
    exit_code: u8,
    exit: ExitCode,
}

/// Which index it was.
#[derive(Serialize)]
struct IndexShown<'a> {
    url: String,
    serial: u64,
    created: Timestamp,
    /// The number of the key that signed it.
    signed_by: Option<&'a str>,
    /// Whether it is older than one that was seen before.
    old: bool,
}

/// What came of it for a board.
#[derive(Serialize)]
struct BoardEnded<'a> {
    /// `PRINTER/BOARD`, where it comes from the configuration.
    name: Option<&'a str>,
    board: &'a str,
    #[serde(flatten)]
    how: How<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum How<'a> {
    Well(Box<Fetched<'a>>),
    Badly(FailureJson<'a>),
}

#[derive(Serialize)]
struct Fetched<'a> {
    result: &'static str,
    route: &'a str,
    cached: bool,
    key: String,
    path: &'a Path,
    checks: &'a [Check],
    provenance: &'a Provenance,
}

impl Ended<'_> {
    /// Prints it. Returns the exit code of the worst.
    pub fn print(&self, json: bool) -> ExitCode {
        let codes = self.images.iter().map(|image| image.as_ref().err().map_or(ExitCode::Ok, |failure| failure.exit));
        let exit = ExitCode::worst(codes);
        let all = self.wanted.iter().zip(&self.images);
        for (wanted, image) in all.clone() {
            match image {
                Ok((image, path)) if !json => render::result(&self.sheet(wanted, image, path)),
                Ok(_) => {}
                Err(failure) => render::failure_of(wanted.shown(), failure),
            }
        }
        if json {
            let boards = all.map(|(wanted, image)| BoardEnded {
                name: wanted.name.as_deref(),
                board: &wanted.profile.id.0,
                how: match image {
                    Ok((image, path)) => How::Well(Box::new(fetched(image, path))),
                    Err(failure) => How::Badly(failure.json()),
                },
            });
            render::result_json(&EndedJson {
                result: if exit == ExitCode::Ok { "fetched" } else { "failed" },
                index: IndexShown {
                    url: self.believed.at.to_string(),
                    serial: self.believed.index.serial,
                    created: self.believed.index.created,
                    signed_by: self.believed.key_id.as_deref(),
                    old: self.believed.old,
                },
                warnings: self.warnings(),
                boards: boards.collect(),
                exit_code: exit.code(),
                exit,
            });
        }
        exit
    }

    /// What a person has to know, however well it went.
    fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.believed.key_id.is_none() {
            warnings.push("the index is not signed: nobody vouches for this firmware");
        }
        if self.believed.old {
            warnings.push("the index is older than one that was fetched before");
        }
        warnings
    }

    fn sheet(&self, wanted: &Wanted, image: &FetchedImage, path: &Path) -> String {
        let provenance = &image.entry.provenance;
        let title = if image.cached { "In the cache already" } else { "Fetched" };
        let mut sheet = Sheet::new(&format!("{title}: {} {}", shown(&provenance.app), shown(&provenance.version)));
        for warning in self.warnings() {
            sheet.line("WARNING", warning);
        }
        if let Some(name) = &wanted.name {
            sheet.line("for", name);
        }
        sheet.line("board", &format!("{}, route {}", wanted.profile.id, image.route));
        sheet.line("file", &path.display().to_string());
        sheet.line("", &format!("{} bytes, sha256 {}", provenance.image.size, provenance.image.sha256));
        let index = &self.believed.index;
        let by = self.believed.key_id.as_deref().map_or_else(String::new, |id| format!(", signed by key {id}"));
        sheet.line("index", &self.believed.at.to_string());
        sheet.line("", &format!("of {}, serial {}{by}", index.created, index.serial));
        sheet.into_text()
    }
}

fn fetched<'a>(image: &'a FetchedImage, path: &'a Path) -> Fetched<'a> {
    Fetched {
        result: "fetched",
        route: &image.route,
        cached: image.cached,
        key: image.entry.key.to_string(),
        path,
        checks: &image.checks,
        provenance: &image.entry.provenance,
    }
}
