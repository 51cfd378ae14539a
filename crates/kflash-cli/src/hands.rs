//! What a person does with cable, buttons, jumpers and probe, in the words of the board's profile.

use kflash::board::Hands;
use kflash::plan::WayBack;

/// What to do after a cut, before kflash is run again.
pub fn way_back(way: WayBack, hands: &Hands) -> String {
    match way {
        // A frame that was cut off in the middle may keep Katapult waiting for its rest until it is reset.
        WayBack::Cable => "plug it in again (switch it off and on if it has its own supply)".into(),
        WayBack::DoubleReset => double_reset(hands),
        WayBack::Boot0 => boot0(hands),
        WayBack::Swd => match &hands.swd {
            Some(pins) => format!("only a debug probe reaches it: {pins}"),
            None => "only a debug probe on the chip's SWD pins reaches it".into(),
        },
    }
}

/// How to start the resident bootloader without the application's help.
pub fn double_reset(hands: &Hands) -> String {
    hands.double_reset.clone().unwrap_or_else(|| "press reset twice within half a second".into())
}

/// How to start the chip's ROM bootloader.
pub fn boot0(hands: &Hands) -> String {
    hands.boot0.clone().unwrap_or_else(|| "hold or bridge BOOT0, press reset, let go".into())
}
