//! What the operator has the bridge say of itself: two files of JSON.

use std::path::Path;

use serde_json::value::RawValue;

use super::Failure;
use crate::config::Config;
use crate::edge::BridgeTexts;

/// Reads the files that the configuration names.
///
/// # Errors
/// One that cannot be read, or is no JSON object.
pub(crate) fn read(config: &Config) -> Result<BridgeTexts, Failure> {
    let bridge = &config.bridge;
    Ok(BridgeTexts {
        system_info: object("bridge.system_info_file", &bridge.system_info_file)?,
        workflow_guidance: object("bridge.workflow_guidance_file", &bridge.workflow_guidance_file)?,
    })
}

fn object(setting: &str, path: &Path) -> Result<Option<Box<RawValue>>, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{setting}: {shown} cannot be read: {error}")))?;
    let json: Box<RawValue> = serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("{setting}: {shown} is not JSON: {error}")))?;
    if !json.get().starts_with('{') {
        return Err(Failure::Usage(format!("{setting}: {shown}: want a JSON object")));
    }
    Ok(Some(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_object_or_refused_with_its_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let read_as = |text: &str| {
            std::fs::write(&path, text).unwrap();
            object("bridge.x", &path)
        };
        assert_eq!(read_as(" {\"a\": 1.10}\n").unwrap().unwrap().get(), "{\"a\": 1.10}");
        for text in ["[]", "", "{"] {
            let Err(Failure::Usage(shown)) = read_as(text) else { panic!("{text}") };
            assert!(shown.starts_with("bridge.x: "), "{shown}");
        }
        assert!(matches!(object("bridge.x", &dir.path().join("no")), Err(Failure::Usage(_))));
        assert!(object("bridge.x", Path::new("")).unwrap().is_none());
    }
}
