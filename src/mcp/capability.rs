//! What clients declare and what this server declares.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The capabilities of a client that decide what may be asked of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCapabilities {
    /// `sampling/createMessage`
    pub sampling: bool,
    /// `elicitation/create` with a form
    pub elicitation_form: bool,
    /// `elicitation/create` with a URL
    pub elicitation_url: bool,
    /// `roots/list`
    pub roots: bool,
}

impl ClientCapabilities {
    /// A client that can be asked everything.
    pub const ALL: Self = Self { sampling: true, elicitation_form: true, elicitation_url: true, roots: true };

    /// Reads a `capabilities` object; what is not understood counts as absent.
    #[must_use]
    pub fn read(json: &str) -> Self {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            sampling: Option<&'a RawValue>,
            #[serde(borrow)]
            elicitation: Option<&'a RawValue>,
            #[serde(borrow)]
            roots: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Elicitation<'a> {
            #[serde(borrow)]
            form: Option<&'a RawValue>,
            #[serde(borrow)]
            url: Option<&'a RawValue>,
        }
        let Ok(raw) = serde_json::from_str::<Raw<'_>>(json) else { return Self::default() };
        let is_object = |value: Option<&RawValue>| value.is_some_and(|value| value.get().starts_with('{'));
        let (form, url) = match raw
            .elicitation
            .filter(|value| value.get().starts_with('{'))
            .map(|value| serde_json::from_str::<Elicitation<'_>>(value.get()))
        {
            // `elicitation: {}` means form (MCP 2025-11-25, elicitation).
            Some(Ok(modes)) => (modes.form.is_some() || modes.url.is_none(), modes.url.is_some()),
            _ => (false, false),
        };
        Self {
            sampling: is_object(raw.sampling),
            elicitation_form: form,
            elicitation_url: url,
            roots: is_object(raw.roots),
        }
    }

    /// Packs them for a session id.
    #[must_use]
    pub fn to_bits(self) -> u16 {
        u16::from(self.sampling)
            | u16::from(self.elicitation_form) << 1
            | u16::from(self.elicitation_url) << 2
            | u16::from(self.roots) << 3
    }

    /// Unpacks them.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self {
            sampling: bits & 1 != 0,
            elicitation_form: bits & 2 != 0,
            elicitation_url: bits & 4 != 0,
            roots: bits & 8 != 0,
        }
    }

    /// A `capabilities` object that says the same: for a session of which only its id is left.
    #[must_use]
    pub fn to_json(self) -> String {
        let mut parts = Vec::new();
        if self.sampling {
            parts.push("\"sampling\":{}".to_owned());
        }
        let modes: Vec<&str> = [(self.elicitation_form, "\"form\":{}"), (self.elicitation_url, "\"url\":{}")]
            .into_iter()
            .filter_map(|(has, text)| has.then_some(text))
            .collect();
        if !modes.is_empty() {
            parts.push(format!("\"elicitation\":{{{}}}", modes.join(",")));
        }
        if self.roots {
            parts.push("\"roots\":{}".to_owned());
        }
        format!("{{{}}}", parts.join(","))
    }

    /// Whether `method` may be asked of this client; `url_mode` says that an elicitation wants a URL opened.
    #[must_use]
    pub fn allow(self, method: &str, url_mode: bool) -> bool {
        match method {
            "sampling/createMessage" => self.sampling,
            "elicitation/create" if url_mode => self.elicitation_url,
            "elicitation/create" => self.elicitation_form,
            "roots/list" => self.roots,
            _ => false,
        }
    }
}

/// The capability that `method` needs, as a ClientCapabilities object.
#[must_use]
pub fn required_for(method: &str) -> &'static str {
    match method {
        "sampling/createMessage" => "{\"sampling\":{}}",
        "elicitation/create" => "{\"elicitation\":{}}",
        "roots/list" => "{\"roots\":{}}",
        _ => "{}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_survive_the_session_id() {
        for json in [
            "{}",
            r#"{"sampling":{}}"#,
            r#"{"elicitation":{}}"#,
            r#"{"elicitation":{"url":{}},"roots":{"listChanged":true},"x":[1]}"#,
            r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}}}"#,
        ] {
            let read = ClientCapabilities::read(json);
            assert_eq!(ClientCapabilities::from_bits(read.to_bits()), read, "{json}");
            assert_eq!(ClientCapabilities::read(&read.to_json()), read, "{json}");
        }
        assert!(ClientCapabilities::read(r#"{"elicitation":{}}"#).elicitation_form);
        assert!(!ClientCapabilities::read(r#"{"elicitation":{"url":{}}}"#).elicitation_form);
        // Lists are no objects, even where their elements could be taken for fields.
        for odd in
            ["[]", r#"{"elicitation":[{},{}]}"#, r#"{"elicitation":"form","roots":[],"sampling":true}"#]
        {
            assert_eq!(ClientCapabilities::read(odd), ClientCapabilities::default(), "{odd}");
        }
    }
}
