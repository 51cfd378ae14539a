//! What containers say, for a person: their lines of JSON as text, of progress every ten percent.

use std::sync::{Mutex, PoisonError};

use kflash_kube::step::Step;
use serde_json::Value;

/// Remembers the progress that was shown.
#[derive(Debug, Default)]
pub struct Log {
    shown: Mutex<Option<(String, u64)>>,
}

impl Log {
    /// The line that a container wrote, as it is shown; `None` where it is not.
    pub fn line(&self, container: &str, line: &str) -> Option<String> {
        let Ok(value @ Value::Object(_)) = serde_json::from_str(line) else {
            let line = line.trim_end();
            return (!line.is_empty()).then(|| format!("{container}: {line}"));
        };
        // What it came to is told at the end.
        if value.get("result").is_some() {
            return None;
        }
        if let Ok(step) = serde_json::from_value::<Step>(value.clone()) {
            return Some(format!("{container}: {step}"));
        }
        let text = |key: &str| value[key].as_str();
        let board = text("board").map(|board| format!("{board}: ")).unwrap_or_default();
        let said = match text("event") {
            Some("progress") => self.progress(&board, &value)?,
            Some("check" | "operation") => return None,
            Some("warning") => format!("warning: {}", text("text")?),
            Some("hands-needed") => text("instruction")?.to_owned(),
            _ => ["what", "text", "message"].iter().find_map(|key| text(key)).unwrap_or(line.trim_end()).to_owned(),
        };
        Some(format!("{container}: {board}{said}"))
    }

    fn progress(&self, board: &str, value: &Value) -> Option<String> {
        let (done, total) = (value["done"].as_u64()?, value["total"].as_u64()?);
        let phase = value["phase"].as_str()?;
        let tenth = done.saturating_mul(10) / total.max(1);
        let now = (format!("{board}{phase}"), tenth);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if tenth == 0 || shown.as_ref() == Some(&now) {
            return None;
        }
        *shown = Some(now);
        Some(format!("{phase} {} %", tenth * 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_json_become_words() {
        let log = Log::default();
        let shown = |line: &str| log.line("kflash", line);
        for (line, words) in [
            (r#"{"event":"phase","phase":"write","what":"writing 33 KiB","total":33000}"#, "kflash: writing 33 KiB"),
            (r#"{"board":"voron/mcu","event":"warning","text":"heaters"}"#, "kflash: voron/mcu: warning: heaters"),
            (r#"{"step":"stopped","workload":"deployment/a"}"#, "kflash: no pod of deployment/a is left"),
            (r#"{"event":"progress","phase":"write","done":10,"total":100}"#, "kflash: write 10 %"),
            (r#"{"event":"progress","phase":"write","done":100,"total":100}"#, "kflash: write 100 %"),
            ("make: *** [all] Error 2\n", "kflash: make: *** [all] Error 2"),
            (r#"{"anything":1}"#, r#"kflash: {"anything":1}"#),
        ] {
            assert_eq!(shown(line).as_deref(), Some(words));
        }
        for line in [
            "",
            r#"{"event":"progress","phase":"write","done":101,"total":100}"#,
            r#"{"event":"progress","phase":"erase","done":1,"total":100}"#,
            r#"{"event":"check","name":"a","verdict":"agrees","evidence":"b"}"#,
            r#"{"result":"flashed"}"#,
        ] {
            assert_eq!(shown(line), None, "{line}");
        }
    }
}
