//! `kflash job`: the manifests of a flash in a Kubernetes cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::value_parser;
use kflash::config::Printer;
use kflash::exit::ExitCode;
use kflash_job::{
    Access, Images, Inputs, JobError, Kubernetes, Quiesce, Shape, Via, notes_of_flash, notes_of_setup, yaml,
};

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware;
use crate::render;

/// Makes the manifests that flash a printer in a Kubernetes cluster
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Render(Render),
}

/// Prints setup.yaml, which is applied once for each printer, and flash-job.yaml, which flashes it
///
/// The printer stands in the configuration, with a [printers.cluster] that names its node and what runs Klipper. The Job
/// obtains the firmware while Klipper still runs (but for a token), asks Moonraker, stops Klipper, flashes every board,
/// proves what they run, and gives Klipper back. It is named by a digest of its inputs: the same one is not run twice
/// (`kubectl replace --force` does). No cluster is asked; nothing is applied.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash job render --printer voron --out k8s-jobs/voron
  kflash job render --printer voron --firmware klipper.bin | kubectl apply -f -
  kflash job render --printer ender --access unprivileged --registry registry.local:5000
  kflash job render --printer voron --access unprivileged --phased --k8s 1.35")]
struct Render {
    /// The printer, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    printer: String,
    /// How the board is reached: with the node's /dev, or with a device plugin's resource for a board that does not
    /// re-enumerate
    #[arg(long, default_value = "privileged", value_name = "privileged|unprivileged")]
    access: Access,
    /// With --access unprivileged, for a board on USB behind Katapult: flash it in phases, since a container keeps the
    /// device node that it was created with. The device plugin has to give a path that stays, such as one of
    /// /dev/serial/by-path
    #[arg(long)]
    phased: bool,
    /// The oldest Kubernetes that it has to run on. It matters with --phased alone: from 1.35 on, one container is created
    /// again for each phase; before, there are three
    #[arg(long, default_value = "1.29", value_name = "1.29|1.33|1.35")]
    k8s: Kubernetes,
    /// How Klipper is stopped: by a sidecar that scales it, by a token that it gives up to a Job of higher priority (the
    /// Job then waits to be started), or by somebody else
    #[arg(long, default_value = "sidecar", value_name = "sidecar|token|none")]
    quiesce: Quiesce,
    /// Which way the firmware goes to the chip: over the board's own cable, or through a debug probe on its SWD pins
    #[arg(long, default_value = "cable", value_name = "cable|swd")]
    via: Via,
    /// Which debug probe, where the node has several; `kflash detect` lists them
    #[arg(long, value_name = "VID:PID:SERIAL")]
    probe: Option<String>,
    /// Firmware that comes along, for a printer with one board: nothing is built or fetched
    #[arg(long, short, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Where the container images are
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    registry: String,
    /// Seconds that the sidecar waits for a print to end instead of refusing; the firmware is obtained before
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = value_parser!(u32).range(..=604_800))]
    wait: u32,
    /// Have the sidecar take a Moonraker that does not answer for a printer that does nothing
    #[arg(long)]
    trust_silence: bool,
    /// Write setup.yaml and flash-job.yaml to DIR instead of printing them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Render(args) => args.run(shared),
    }
}

impl Render {
    fn run(&self, shared: &Shared) -> Result<ExitCode, Failure> {
        let configuration = shared.configuration()?;
        let config = &configuration.config;
        let printer = config.printer(&self.printer)?;
        let shape = Shape {
            access: self.access,
            quiesce: self.quiesce,
            images: Images { registry: self.registry.clone(), ..Images::default() },
            via: self
                .via
                .clone()
                .with(self.probe.clone())
                .map_err(|error| Failure::usage(format!("--via: {error}")))?,
            wait: self.wait,
            trusting: self.trust_silence,
            phased: self.phased,
            kubernetes: self.k8s,
        };
        let firmware = self.firmware.as_deref().map(firmware::read).transpose()?;
        let ca = config.fetch.as_ref().and_then(|fetch| fetch.ca.as_deref()).map(read).transpose()?;
        let moonraker_ca = printer.moonraker.as_ref().and_then(|moonraker| moonraker.ca.as_deref());
        let moonraker_ca = moonraker_ca.map(read).transpose()?;
        let profiles = profiles(printer)?;
        let inputs = Inputs {
            config,
            printer,
            profiles: &profiles,
            ca: ca.as_deref(),
            moonraker_ca: moonraker_ca.as_deref(),
            firmware: firmware.as_ref(),
        };
        let setup = kflash_job::setup(printer, &shape)?;
        let flash = kflash_job::flash(&inputs, &shape)?;
        match &self.out {
            None if shared.json => render::result_json(&[setup, flash].concat()),
            out => {
                let setup = notes_of_setup(printer, &shape)? + &yaml(&setup)?;
                let flash = notes_of_flash(&shape) + &yaml(&flash)?;
                match out {
                    None => render::result(&(setup + &flash)),
                    Some(folder) => write(folder, &setup, &flash)?,
                }
            }
        }
        Ok(ExitCode::Ok)
    }
}

fn write(folder: &Path, setup: &str, flash: &str) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| unusable(folder, &error))?;
    let written = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| unusable(&path, &error))?;
        Ok::<_, Failure>(path.display().to_string())
    };
    let (setup, flash) = (written("setup.yaml", setup)?, written("flash-job.yaml", flash)?);
    render::note(&format!("once: kubectl apply -f {setup}\neach flash: kubectl apply -f {flash}"));
    Ok(())
}

/// The texts of the profile files that the printer's boards name.
fn profiles(printer: &Printer) -> Result<BTreeMap<String, String>, Failure> {
    let mut texts = BTreeMap::new();
    for board in printer.boards.iter().filter(|board| board.board.contains('/')) {
        texts.insert(board.name.clone(), read(Path::new(&board.board))?);
    }
    Ok(texts)
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| unusable(file, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self { exit: error.exit(), ..Self::usage(error.to_string()) }
    }
}
