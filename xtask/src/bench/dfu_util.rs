//! DFU in the VM, on the kernel's USB: kflash and dfu-util in turns on the same board.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kflash::board::Cable;
use kflash::boards;
use kflash::proto::Protocol;
use tests::vm::Vm;

use super::{Figure, Report, ended, median, programs, wire};

const BOARD: &str = "btt-octopus-v1.1-f446";

/// Begins before each run with the board in its ROM bootloader, and ends there. Times go to /out/times, a line for each run.
const SCRIPT: &str = r"
    modprobe -a vhci-hcd cdc-acm
    start_udevd
    mkfifo controls
    ./kflash-sim serve --board BOARD --bootloader none --known klipper.bin --mode dfu --boot0 \
        --mount vhci --port 1-1 --timing TIMING < controls > /out/events &
    exec 3> controls
    wait_for 10 usb_devices 0483:df11

    timed() {
        name=$1
        shift
        udevadm settle
        begun=$EPOCHREALTIME
        if ! $* > /tmp/log 2>&1; then cat /tmp/log; exit 1; fi
        ended=$EPOCHREALTIME
        echo $name $begun $ended >> /out/times
    }
    flash() { ./kflash flash --board BOARD --device 1-1 --firmware klipper.bin --json > log && tail -n 1 log > /out/kflash-$run; }

    run=0
    while [ $run -lt RUNS ]; do
        timed download dfu-util -d 0483:df11 -a 0 -s 0x08000000 -D klipper.bin
        rm -f back.bin
        timed upload dfu-util -d 0483:df11 -a 0 -s 0x08000000:SIZE -U back.bin
        cmp klipper.bin back.bin
        timed kflash flash
        # It runs Klipper now; the jumper at BOOT0 is still set.
        echo reset >&3
        wait_for 10 usb_devices 0483:df11
        run=$((run + 1))
    done
    echo quit >&3
    wait
    if grep violation /out/events; then exit 1; fi
";

pub fn measure(runs: usize) -> anyhow::Result<Report> {
    programs::simulator()?;
    programs::kflash()?;
    let (profile, chip) = boards::find(BOARD)?;
    let (_, start) = wire::route(&profile, Protocol::Dfuse, Cable::Usb)?;
    let image = wire::image(&chip, start, Cable::Usb)?.build();
    let mut figures = Vec::new();
    for timing in ["real", "zero"] {
        figures.extend(compare(&image, timing, runs)?);
    }
    let method = format!(
        "An image of {} bytes onto a {BOARD} in its ROM bootloader (STM32F446, wTransferSize 2048), simulated in the same guest: a \
stock Debian kernel in QEMU without KVM, one CPU. Both in turns, {runs} times, the median of each. \"Real\": flash times of the data \
sheet and the ROM's own bwPollTimeout (100 ms a command, 104 ms a block), which both wait out; \"zero\": no flash time, \
bwPollTimeout 0. A whole process is timed from before it is started until it has ended; phases are those that kflash reports. \
dfu-util -D erases and writes, and -U reads what is then compared. kflash also starts Klipper, waits for its USB and asks it what it \
is (phases start and confirm), for which dfu-util has no counterpart: a row with and one without.",
        image.len()
    );
    Ok(Report { title: "DFU in the VM, beside dfu-util", method, figures })
}

fn compare(image: &[u8], timing: &str, runs: usize) -> anyhow::Result<Vec<Figure>> {
    let script = SCRIPT
        .replace("BOARD", BOARD)
        .replace("TIMING", timing)
        .replace("RUNS", &runs.to_string())
        .replace("SIZE", &image.len().to_string());
    let outcome = Vm::new()
        .file(programs::simulator()?, "kflash-sim")
        .file(programs::kflash()?, "kflash")
        .bytes(image, "klipper.bin")
        .script(&script)
        .limit(Duration::from_secs(300 + 120 * runs as u64))
        .run();
    ensure!(outcome.code == 0, "the guest failed:\n{}", outcome.output);

    let mut seconds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let times = String::from_utf8(outcome.file("times"))?;
    for line in times.lines() {
        let [name, begun, ended] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("times of a run: {line:?}");
        };
        seconds.entry(name).or_default().push(ended.parse::<f64>()? - begun.parse::<f64>()?);
    }
    let ended: Vec<_> = (0..runs)
        .map(|run| ended::phases(&serde_json::from_slice(&outcome.file(&format!("kflash-{run}")))?))
        .collect::<anyhow::Result<_>>()?;
    let whole = |name| median(seconds.get(name).cloned().unwrap_or_default()).context("a program never ran");
    let phases =
        |names: &[&str]| median(ended.iter().map(|run| ended::sum(run, names)).collect()).context("kflash never ran");

    let (download, upload, kflash) = (whole("download")?, whole("upload")?, whole("kflash")?);
    let confirmed = phases(&["start", "confirm"])?;
    let mut figures = vec![
        Figure::new(
            format!("{timing}: kflash, erase, write and read back"),
            phases(&["erase", "write", "read-back"])?,
            "s",
        )
        .against("dfu-util -D, which verifies nothing", download)
        .at_most(1.0),
        Figure::new(format!("{timing}: kflash, whole process without starting Klipper"), kflash - confirmed, "s")
            .against("dfu-util -D, which verifies nothing", download)
            .at_most(1.0),
        Figure::new(format!("{timing}: kflash, the same"), kflash - confirmed, "s")
            .against("dfu-util -D, then -U", download + upload)
            .at_most(1.0),
        Figure::new(format!("{timing}: kflash, whole process"), kflash, "s")
            .against("dfu-util -D, then -U", download + upload),
    ];
    for phase in ["look", "enter", "erase", "write", "read-back", "start", "confirm"] {
        figures.push(Figure::new(format!("{timing}: kflash, phase {phase}"), phases(&[phase])?, "s"));
    }
    Ok(figures)
}
