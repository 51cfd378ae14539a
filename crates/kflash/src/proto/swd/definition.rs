//! Target definitions: how probe-rs is told a chip's memory and flash algorithm.

use probe_rs::Target;
use probe_rs::config::{MemoryRegion, RawFlashAlgorithm, Registry};

use super::SwdError;
use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::chip::Chip;

/// A chip as probe-rs knows it.
pub(super) struct Definition {
    pub target: Target,
    /// Bytes that the algorithm writes at once.
    pub page_size: FlashSize,
    /// What an erased byte reads.
    pub erased: u8,
}

impl Definition {
    /// Reads a definition, and holds it against what the chip's file says.
    pub fn read(chip: &Chip, yaml: &str) -> Result<Self, SwdError> {
        let bad = |problem: String| SwdError::BadDefinition { chip: chip.id.clone(), problem };
        let mut registry = Registry::new();
        let family = registry.add_target_family_from_yaml(yaml).map_err(|error| bad(super::translate::text(&error)))?;
        let variants = registry.families().iter().find(|it| it.name == family).map(|it| it.variants.as_slice());
        let [variant] = variants.unwrap_or_default() else { return Err(bad("defines not exactly one chip".into())) };
        let target = registry.get_target_by_name(&variant.name).map_err(|error| bad(super::translate::text(&error)))?;
        let [algorithm] = &*target.flash_algorithms else {
            return Err(bad("holds not exactly one flash algorithm".into()));
        };
        let nvm = target.memory_map.iter().filter(|region| matches!(region, MemoryRegion::Nvm(_)));
        let covered: u64 = nvm.clone().map(MemoryRegion::address_range).map(|range| range.end - range.start).sum();
        let start = nvm.map(|region| region.address_range().start).min();
        if start != Some(chip.flash_start.0.into()) || covered != u64::from(chip.flash().size.0) {
            return Err(bad(format!("its flash is not the {} of {}", chip.flash(), chip.id)));
        }
        if sectors(algorithm, chip.flash()) != chip.sectors().collect::<Vec<_>>() {
            return Err(bad(format!("its sectors are not those of {}", chip.id)));
        }
        let page_size = algorithm.flash_properties.page_size;
        let smallest = chip.sectors().map(|sector| sector.size.0).min().unwrap_or(0);
        if !page_size.is_power_of_two() || page_size > smallest || page_size < chip.program_unit.0 {
            return Err(bad(format!("a page of {page_size} bytes is no part of a sector")));
        }
        let erased = algorithm.flash_properties.erased_byte_value;
        Ok(Self { page_size: FlashSize(page_size), erased, target })
    }
}

/// The sectors of an algorithm up to the end of `flash`: each size holds from its address on.
fn sectors(algorithm: &RawFlashAlgorithm, flash: FlashRange) -> Vec<FlashRange> {
    let properties = &algorithm.flash_properties;
    let base = properties.address_range.start;
    let mut sectors = Vec::new();
    let mut at = base;
    while at < u64::from(flash.end().0) {
        let of = properties.sectors.iter().rev().find(|sector| base + sector.address <= at);
        let Some(size) = of.map(|sector| sector.size).filter(|size| *size > 0) else { break };
        sectors.push(FlashRange { start: FlashAddr(at as u32), size: FlashSize(size as u32) });
        at += size;
    }
    sectors
}
