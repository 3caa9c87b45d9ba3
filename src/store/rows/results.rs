//! The rows of results: one with what is said of it, by which it is looked up, one with its content, and one in the
//! order of time.

use super::{after, each, key, piece_number};
use crate::base::ids::SessionKey;
use crate::store::durable::{Durable, Table, Write};
use crate::store::payload::{At, Sealer};
use crate::store::record::{self, StoredResult};
use crate::store::{ResultId, StoreError};

const RESULT_HEAD: u8 = 0;
const RESULT_BODY: u8 = 1;
const RESULT_DUE: u8 = 2;
/// Fence and revision, bytes.
const RESULT_VERSION: usize = 16;

/// The row of a result.
pub(in crate::store) fn result(id: &ResultId) -> Vec<u8> {
    key(&[&[RESULT_HEAD], id.session.as_bytes(), id.name.as_bytes()])
}

/// The row that says when a result goes.
fn result_due(due_ms: u64, id: &ResultId) -> Vec<u8> {
    key(&[&[RESULT_DUE], &due_ms.to_be_bytes(), id.session.as_bytes(), id.name.as_bytes()])
}

/// The rows of results that go at `due_ms` or before: the first, and the one after the last.
pub(in crate::store) fn results_due(due_ms: u64) -> (Vec<u8>, Vec<u8>) {
    (vec![RESULT_DUE], key(&[&[RESULT_DUE], &due_ms.saturating_add(1).to_be_bytes()]))
}

/// Reads a key of [`result_due`].
pub(in crate::store) fn read_result_due(row: &[u8]) -> Option<(u64, ResultId)> {
    let (time, rest) = row.strip_prefix(&[RESULT_DUE])?.split_first_chunk::<8>()?;
    let (session, name) = rest.split_first_chunk::<{ SessionKey::LEN }>()?;
    let id = ResultId {
        session: SessionKey::from_bytes(*session),
        name: std::str::from_utf8(name).ok()?.to_owned(),
    };
    Some((u64::from_be_bytes(*time), id))
}

/// The results of a session, without their contents, by name.
pub(in crate::store) fn read_results(
    disk: &dyn Durable,
    session: SessionKey,
) -> Result<Vec<(ResultId, StoredResult)>, StoreError> {
    read_results_under(disk, session, "")
}

/// Those of them whose names begin with `prefix`.
pub(in crate::store) fn read_results_under(
    disk: &dyn Durable,
    session: SessionKey,
    prefix: &str,
) -> Result<Vec<(ResultId, StoredResult)>, StoreError> {
    let mut results = Vec::new();
    let prefix = key(&[&[RESULT_HEAD], session.as_bytes(), prefix.as_bytes()]);
    each(disk, Table::Result, &prefix, |(row, stored)| {
        results.push((read_result_key(&row)?, record::decode(&stored)?));
        Ok(())
    })?;
    Ok(results)
}

/// The same of all sessions, and of none.
pub(in crate::store) fn read_all_results_under(
    disk: &dyn Durable,
    prefix: &str,
) -> Result<Vec<(ResultId, StoredResult)>, StoreError> {
    let mut results = Vec::new();
    each(disk, Table::Result, &[RESULT_HEAD], |(row, stored)| {
        let id = read_result_key(&row)?;
        if id.name.starts_with(prefix) {
            results.push((id, record::decode(&stored)?));
        }
        Ok(())
    })?;
    Ok(results)
}

/// Reads a key of [`result`].
fn read_result_key(row: &[u8]) -> Result<ResultId, StoreError> {
    let read =
        row.strip_prefix(&[RESULT_HEAD]).and_then(|row| row.split_first_chunk::<{ SessionKey::LEN }>());
    let named = read.and_then(|(session, name)| Some((session, std::str::from_utf8(name).ok()?)));
    let (session, name) = named.ok_or_else(|| StoreError::Io("a result's name is damaged".into()))?;
    Ok(ResultId { session: SessionKey::from_bytes(*session), name: name.to_owned() })
}

fn result_body(id: &ResultId) -> Vec<u8> {
    key(&[&[RESULT_BODY], id.session.as_bytes(), id.name.as_bytes(), &[0]])
}

fn result_content(id: &ResultId, result: &StoredResult) -> Vec<u8> {
    key(&[&result_body(id), &result.fence.to_be_bytes(), &result.rev.to_be_bytes()])
}

/// The stored form of a result's content, for [`put_result`].
pub(in crate::store) fn seal_result(
    sealer: &Sealer,
    id: &ResultId,
    result: &StoredResult,
    content: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let at = At { table: Table::Result, key: &result_content(id, result) };
    record::encode_content(sealer, at, content)
}

/// The rows that put a result, with its content as it is stored, in place of the one that stands.
pub(in crate::store) fn put_result(
    id: &ResultId,
    result: &StoredResult,
    content: Vec<u8>,
    standing: Option<&StoredResult>,
    out: &mut Vec<Write>,
) -> Result<(), StoreError> {
    let (all, own) = (result_body(id), result_content(id, result));
    out.push(Write::Put(Table::Result, result_due(result.expires_ms, id), Vec::new()));
    let (first, pieces) = record::cut(content, &[]);
    for (at, piece) in pieces.into_iter().enumerate() {
        out.push(Write::Put(Table::Result, key(&[&own, &piece_number(at)?]), piece));
    }
    out.push(Write::Put(Table::Result, own.clone(), first));
    // The head comes after what it names, and before that goes which it named.
    out.push(Write::Put(Table::Result, self::result(id), record::encode(result)?));
    if let Some(standing) = standing {
        out.push(Write::DeleteRange(Table::Result, all, own));
        if standing.expires_ms != result.expires_ms {
            out.push(Write::Delete(Table::Result, result_due(standing.expires_ms, id)));
        }
    }
    Ok(())
}

/// Removes the rows of a result.
pub(in crate::store) fn remove_result(id: &ResultId, result: &StoredResult, out: &mut Vec<Write>) {
    out.push(Write::Delete(Table::Result, self::result(id)));
    let body = result_body(id);
    out.push(Write::DeleteRange(Table::Result, body.clone(), after(&body)));
    out.push(Write::Delete(Table::Result, result_due(result.expires_ms, id)));
}

/// A result's content.
pub(in crate::store) fn read_result(
    disk: &dyn Durable,
    sealer: &Sealer,
    id: &ResultId,
    result: &StoredResult,
) -> Result<Vec<u8>, StoreError> {
    let own = result_content(id, result);
    let mut rows = Vec::new();
    each(disk, Table::Result, &own, |(_, row)| {
        rows.push(row);
        Ok(())
    })?;
    let (first, pieces) =
        rows.split_first().ok_or_else(|| StoreError::Io("a result's content is missing".into()))?;
    let stored = match record::pieces(first)? {
        0 => first.clone(),
        _ => record::join(first, pieces.iter().map(Vec::as_slice))?,
    };
    record::decode_content(sealer, At { table: Table::Result, key: &own }, &stored)
}

/// Whether a row of [`Table::Result`] is a content, and not a piece of one.
pub(super) fn is_result_body(row: &[u8]) -> bool {
    let Some(name) = row.strip_prefix(&[RESULT_BODY]).and_then(|rest| rest.get(SessionKey::LEN..)) else {
        return false;
    };
    // A name has no NUL.
    name.iter().position(|byte| *byte == 0).is_some_and(|end| name.len() == end + 1 + RESULT_VERSION)
}
