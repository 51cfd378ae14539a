//! How running Klipper is asked to enter its bootloader, by the cable that it is on.

use std::time::Duration;

use crate::clock::Clock;
use crate::link::{ByteLink, LinkError};

/// The request on a UART (Klipper `src/generic/serial_irq.c`): a legal length and sequence with a CRC that is wrong on
/// purpose, so that no block is ever taken for it.
pub const UART_REQUEST: [u8; 32] = *b"\x20\x1c Request Serial Bootloader!! \x7e";

/// How long the firmware has to take the ending `7e` out of its receive buffer, where the request must stand alone.
const ALONE: Duration = Duration::from_millis(20);
/// How long the reset into the bootloader takes at most.
const RESET: Duration = Duration::from_secs(1);
/// How long the line state is held before the port may be closed.
const HOLD: Duration = Duration::from_millis(100);

/// Asks over USB CDC: 1200 baud, then DTR dropped (Klipper `src/generic/usb_cdc.c`). Close the link afterwards and wait
/// for the device to come back; it may leave during the call. A link without modem lines shows the speed alone.
pub fn touch_1200(link: &mut dyn ByteLink, clock: &dyn Clock) -> Result<(), LinkError> {
    modem_line(link, true)?;
    match link.set_baud(1200).and_then(|()| modem_line(link, false)) {
        // The firmware acts on whichever of the two comes last, so the device may be gone before both are answered.
        Ok(()) | Err(LinkError::Gone) => {}
        Err(error) => return Err(error),
    }
    clock.sleep(HOLD);
    Ok(())
}

fn modem_line(link: &mut dyn ByteLink, on: bool) -> Result<(), LinkError> {
    match link.set_dtr(on) {
        Ok(()) | Err(LinkError::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Asks over a UART, at the speed of the running firmware, and waits until the bootloader has started. The bootloader
/// may listen at another speed.
pub fn uart_request(link: &mut dyn ByteLink, clock: &dyn Clock) -> Result<(), LinkError> {
    // Ends whatever block a killed host left unfinished; alone it is swallowed without a reply.
    link.write(&[super::frame::SYNC])?;
    clock.sleep(ALONE);
    link.write(&UART_REQUEST)?;
    clock.sleep(RESET);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Mutex;

    use super::*;
    use crate::klipper::frame::Decoder;
    use crate::link::fake::{FakeClock, FakeLink, bytes, logged};

    #[test]
    fn touch_sets_the_speed_and_then_drops_dtr() {
        let (clock, log) = (FakeClock::default(), Mutex::default());
        touch_1200(&mut FakeLink::new(&clock, &log, |_| Vec::new()), &clock).unwrap();
        assert_eq!(logged(&log), ["DTR true", "1200 baud", "DTR false"]);
    }

    #[test]
    fn uart_request_stands_alone_behind_a_sync() {
        let (clock, log) = (FakeClock::default(), Mutex::default());
        uart_request(&mut FakeLink::new(&clock, &log, |_| Vec::new()), &clock).unwrap();
        let log = log.into_inner().unwrap();
        let [(first, sync), (second, request)] = &log[..] else { panic!("{log:?}") };
        assert_eq!(sync, "7e");
        let golden = "20 1c 20 52 65 71 75 65 73 74 20 53 65 72 69 61 6c 20 42 6f 6f 74 6c 6f 61 64 65 72 21 21 20 7e";
        assert_eq!(request, golden);
        assert!(second > first);
        assert!(clock.now() >= *second + Duration::from_secs(1), "the bootloader needs time to start");
    }

    #[test]
    fn the_uart_request_is_no_block() {
        let mut decoder = Decoder::default();
        decoder.push(&UART_REQUEST);
        decoder.push(&bytes("05 11 8f 08 7e"));
        assert_eq!(decoder.pop().map(|block| block.content), Some(Vec::new()));
    }
}
