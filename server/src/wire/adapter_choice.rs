//! Which adapter a request means, where several of its fields may say so.

use axum::http::StatusCode;

use super::error::ApiError;

/// Bytes that the name of a model or adapter may have; no longer one is looked up.
const MAX_NAME_BYTES: usize = 256;

/// The adapter that the fields name together, and the first field that names it.
///
/// # Errors
/// Fields that name different adapters, and a name that is too long to be one.
pub(crate) fn agreed_adapter<'a>(
    fields: &[(&'static str, Option<&'a str>)],
) -> Result<(Option<&'a str>, &'static str), ApiError> {
    let mut named = fields.iter().filter_map(|&(field, name)| Some((field, name?)));
    let Some((field, name)) = named.next() else { return Ok((None, "model")) };
    if let Some((other_field, other)) = named.find(|&(_, other)| other != name) {
        let message = format!(
            "`{field}` names the adapter `{name:.100}` and `{other_field}` names `{other:.100}`: name one adapter"
        );
        let error = ApiError::invalid(StatusCode::BAD_REQUEST, "conflicting_adapters", message);
        return Err(error.naming(other_field));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(ApiError::model_not_found(name).naming(field));
    }
    Ok((Some(name), field))
}
