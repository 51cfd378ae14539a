//! Katapult over a pty at 250000 baud in real time, paced by the simulator.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kflash::board::Cable;
use kflash::boards;
use kflash::link::ByteLink;
use kflash::link::serial::SerialLink;
use kflash::proto::Protocol;
use kflash::proto::katapult::frame::{Command as Katapult, encode};
use tests::command;
use tests::served::Served;

use super::wire::{self, BAUD, BLOCK, UART_BOARD};
use super::{Figure, Report, ended, median, programs};

pub fn measure(runs: usize) -> anyhow::Result<Report> {
    programs::simulator()?;
    programs::kflash()?;
    let (profile, chip) = boards::find(UART_BOARD)?;
    let (_, start) = wire::route(&profile, Protocol::Katapult, Cable::Uart)?;
    let image = wire::image(&chip, start, Cable::Uart)?.build();

    let (mut flashes, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        flashes.push(flash(tempfile::tempdir()?.path(), &image)?);
        bare.push(exchange(tempfile::tempdir()?.path(), start, &image)?.as_secs_f64());
    }
    let flash = median(flashes).context("nothing was flashed")?;
    let bare = median(bare).context("nothing was exchanged")?;
    let limit = wire::limit(image.len());
    let figures = vec![
        Figure::new("kflash: write, read back, start", flash, "s").against("wire's limit", limit),
        Figure::new("the same frames without kflash", bare, "s").against("wire's limit", limit),
        Figure::new("kflash: write, read back, start", flash, "s").against("without kflash", bare).at_most(1.05),
    ];
    let method = format!(
        "An image of {} bytes, `kflash flash` against `kflash-sim serve --mount pty --timing zero` of a {UART_BOARD}; seconds of \
the phases erase, write, read-back and start as it reports them, median of {runs}. A pty has no rate: the simulator holds bytes back \
as a UART would, and moves them every 0.2 ms, which real bridges do, too (a CH340 every 1 ms). What that and the machine cost is seen \
in the second row: every frame made before, written, and its answer's bytes counted.",
        image.len()
    );
    Ok(Report { title: "Katapult at 250000 baud over a pty (real time)", method, figures })
}

/// Serves the board on a pty with a host in `folder/root` around it; where the pty is.
fn serve(folder: &Path, options: &[&str]) -> anyhow::Result<(Served, String)> {
    let root = folder.join("root");
    // For the lock.
    fs::create_dir_all(root.join("run"))?;
    let root = root.to_str().context("the temporary folder's name is no UTF-8")?;
    let common = ["--bootloader", "katapult", "--mount", "pty", "--timing", "zero", "--host-root", root];
    let served = Served::new(UART_BOARD, &[&common, options].concat());
    // tty pts=/dev/pts/3 node=/dev/ttyUSB0 ..
    let event = served.wait_for("tty pts=");
    let pts = event.split(['=', ' ']).nth(2).context("the event names no pty")?.to_owned();
    Ok((served, pts))
}

/// Flashes the board, on which another Klipper runs; the seconds of the transfer.
fn flash(folder: &Path, image: &[u8]) -> anyhow::Result<f64> {
    let firmware = folder.join("klipper.bin");
    fs::write(&firmware, image)?;
    let firmware = firmware.to_str().context("the temporary folder's name is no UTF-8")?;
    let (_board, _) = serve(folder, &["--known", firmware])?;
    let root = folder.join("root");
    let root = root.to_str().context("the temporary folder's name is no UTF-8")?;
    let ran = command::kflash([
        "--host-root",
        root,
        "flash",
        "--board",
        UART_BOARD,
        "--device",
        "1-1",
        "--firmware",
        firmware,
    ]);
    Ok(ended::sum(&ended::phases(&ran.result)?, &["erase", "write", "read-back", "start"]))
}

/// Writes, reads back and starts with frames made before; the time from the first to the last answer.
fn exchange(folder: &Path, start: u32, image: &[u8]) -> anyhow::Result<Duration> {
    let (_board, pts) = serve(folder, &["--blank", "--mode", "katapult"])?;
    let mut link = SerialLink::open(Path::new(&pts), BAUD)?;
    let frame = |command, payload: &[u8]| encode(command, payload).context("the frame is too long");
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for (index, part) in image.chunks(BLOCK).enumerate() {
        let address = (start + (index * BLOCK) as u32).to_le_bytes();
        let mut payload = [&address, part].concat();
        payload.resize(4 + BLOCK, 0xff);
        writes.push((frame(Katapult::SendBlock, &payload)?, 16));
        reads.push((frame(Katapult::RequestBlock, &address)?, 16 + BLOCK));
    }
    writes.push((frame(Katapult::Eof, &[])?, 16));
    reads.push((frame(Katapult::Complete, &[])?, 12));

    // Opening the port resets the board: Katapult is there when it answers.
    let connect = frame(Katapult::Connect, &[])?;
    let mut answer = [0; 256];
    let mut tries = 0..20;
    link.write(&connect)?;
    while link.read(&mut answer, Duration::from_millis(500))? == 0 {
        ensure!(tries.next().is_some(), "no Katapult answers at {pts}");
        link.write(&connect)?;
    }
    while link.read(&mut answer, Duration::from_millis(100))? > 0 {}

    let begun = Instant::now();
    for (frame, length) in writes.iter().chain(&reads) {
        link.write(frame)?;
        let mut came = 0;
        while came < *length {
            let count = link.read(&mut answer, Duration::from_secs(5))?;
            ensure!(count > 0, "Katapult went silent");
            came += count;
        }
        ensure!(came == *length, "an answer has {came} bytes, not {length}");
    }
    Ok(begun.elapsed())
}
