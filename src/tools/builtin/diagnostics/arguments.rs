//! Reads a call's arguments; what is wrong with one is told to the model, with the name of the field.

use serde_json::value::RawValue;

use crate::base::limits::EXCERPT_BYTES;
use crate::rpc::error::RpcError;
use crate::rpc::object::Object;
use crate::tools::Call;
use crate::tools::answer::failure;

/// A result with `isError` that says which argument is wrong and what is wanted.
pub(super) type Wrong = Box<RawValue>;

/// The arguments of one call.
pub(super) struct Arguments<'a> {
    tool: &'static str,
    object: Object<'a>,
}

impl<'a> Arguments<'a> {
    pub(super) fn of(tool: &'static str, call: &'a Call) -> Result<Self, RpcError> {
        let arguments = call.arguments()?;
        let object = Object::parse(arguments.get())
            .map_err(|error| RpcError::invalid_params(format!("params.arguments: {error}")))?;
        Ok(Self { tool, object })
    }

    /// What `read` makes of them, or what is wrong with them.
    pub(super) fn checked(
        &self,
        read: impl FnOnce(&Self) -> Result<Box<RawValue>, Wrong>,
    ) -> Result<Box<RawValue>, RpcError> {
        Ok(read(self).unwrap_or_else(|wrong| wrong))
    }

    /// A required string, as JSON text.
    pub(super) fn string(&self, field: &str) -> Result<&'a str, Wrong> {
        match self.object.get(field) {
            Some(value) if value.get().starts_with('"') => Ok(value.get()),
            other => Err(self.wrong(field, "a string", other)),
        }
    }

    /// An optional string, decoded.
    pub(super) fn text_or_none(&self, field: &str) -> Result<Option<String>, Wrong> {
        match self.object.get(field) {
            None => Ok(None),
            Some(value) => serde_json::from_str::<Option<String>>(value.get())
                .map_err(|_| self.wrong(field, "a string", Some(value))),
        }
    }

    /// A required whole number of this range.
    pub(super) fn integer(&self, field: &str, least: u64, most: u64) -> Result<u64, Wrong> {
        self.in_range(field, self.object.get(field), least, most)
    }

    /// An optional whole number of this range.
    pub(super) fn integer_or(&self, field: &str, absent: u64, least: u64, most: u64) -> Result<u64, Wrong> {
        match self.object.get(field) {
            None => Ok(absent),
            value => self.in_range(field, value, least, most),
        }
    }

    /// An optional whole number that may be negative.
    pub(super) fn signed_or(&self, field: &str, absent: i64) -> Result<i64, Wrong> {
        let Some(value) = self.object.get(field) else { return Ok(absent) };
        value.get().parse().map_err(|_| self.wrong(field, "an integer of at most 64 bits", Some(value)))
    }

    fn in_range(&self, field: &str, value: Option<&RawValue>, least: u64, most: u64) -> Result<u64, Wrong> {
        value
            .and_then(|value| value.get().parse().ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.wrong(field, &format!("an integer from {least} to {most}"), value))
    }

    fn wrong(&self, field: &str, want: &str, got: Option<&RawValue>) -> Wrong {
        let tool = self.tool;
        let got = match got.map(RawValue::get) {
            None => "it is missing".into(),
            Some(value) if value.len() <= EXCERPT_BYTES => format!("got {value}"),
            Some(value) => format!("got {} bytes of something else", value.len()),
        };
        failure(&format!("{tool}: {field:?}: want {want}, {got}"))
    }
}
