//! The messages of a conversation, as chat templates want them.

use polylora_engine::{TemplateKind, TemplateValue};

use super::error::ApiError;
use super::generation_fields::{invalid, not_yet};

/// What stands between the text parts of one message.
const BETWEEN_PARTS: &str = "\n";

/// Checks messages and makes them what templates take: content in parts becomes one text, and the arguments of tool calls,
/// which clients send as JSON in a text, become objects. All other fields stay as they are, in their order.
///
/// # Errors
/// 400 with the path of what is wrong: no list, no role, no content, a part that is no text.
pub fn template_messages(messages: &TemplateValue) -> Result<Vec<TemplateValue>, ApiError> {
    let list = list(messages, "messages")?;
    if list.is_empty() {
        return Err(invalid("messages", "`messages` is empty: send at least one message".to_owned()));
    }
    list.into_iter().enumerate().map(|(index, message)| template_message(index, &message)).collect()
}

/// The role of a message that has been checked.
pub fn role_of(message: &TemplateValue) -> String {
    text(&field(message, "role")).unwrap_or_default()
}

/// The text of a message that has been checked.
pub fn text_of(message: &TemplateValue) -> String {
    text(&field(message, "content")).unwrap_or_default()
}

/// A list of objects, such as tools and documents.
///
/// # Errors
/// 400 for anything else.
pub fn list_of_objects(value: TemplateValue, name: &'static str) -> Result<TemplateValue, ApiError> {
    for (index, item) in list(&value, name)?.iter().enumerate() {
        if item.kind() != TemplateKind::Map {
            return Err(must_be(format!("{name}[{index}]"), "an object", item));
        }
    }
    Ok(value)
}

fn template_message(index: usize, message: &TemplateValue) -> Result<TemplateValue, ApiError> {
    let path = format!("messages[{index}]");
    if message.kind() != TemplateKind::Map {
        return Err(must_be(path, "an object with role and content", message));
    }
    let role = field(message, "role");
    let Some(role) = text(&role).filter(|role| !role.is_empty()) else {
        return Err(must_be(format!("{path}.role"), "a string such as \"user\"", &role));
    };
    let content = field(message, "content");
    let new_content = match content.kind() {
        TemplateKind::String => None,
        TemplateKind::Seq => Some(TemplateValue::from(joined(&path, &content)?)),
        // What calls tools may say nothing.
        TemplateKind::Undefined | TemplateKind::None if role == "assistant" => None,
        _ => return Err(must_be(format!("{path}.content"), "a string or a list of parts", &content)),
    };
    let calls = field(message, "tool_calls");
    let new_calls = match calls.kind() {
        TemplateKind::Undefined | TemplateKind::None => None,
        _ => Some(template_calls(&format!("{path}.tool_calls"), &calls)?),
    };
    if new_content.is_none() && new_calls.is_none() {
        return Ok(message.clone());
    }
    Ok(with(message, [("content", new_content), ("tool_calls", new_calls)]))
}

/// The texts of parts as one.
fn joined(path: &str, content: &TemplateValue) -> Result<String, ApiError> {
    let mut texts = Vec::new();
    for (index, part) in list(content, &format!("{path}.content"))?.iter().enumerate() {
        let path = format!("{path}.content[{index}]");
        if let Some(text) = text(part) {
            texts.push(text);
            continue;
        }
        if part.kind() != TemplateKind::Map {
            return Err(must_be(path, "an object with type and text", part));
        }
        let kind = field(part, "type");
        if kind.as_str() != Some("text") {
            let error = not_yet("messages", &format!("a part of type {kind:.40}"), "text");
            return Err(error.naming(path));
        }
        let found = field(part, "text");
        texts.push(text(&found).ok_or_else(|| must_be(format!("{path}.text"), "a string", &found))?);
    }
    Ok(texts.join(BETWEEN_PARTS))
}

/// Tool calls whose arguments are objects.
fn template_calls(path: &str, calls: &TemplateValue) -> Result<TemplateValue, ApiError> {
    let call = |(index, call): (usize, TemplateValue)| {
        let path = format!("{path}[{index}]");
        if call.kind() != TemplateKind::Map {
            return Err(must_be(path, "an object with function", &call));
        }
        let function = field(&call, "function");
        let Some(arguments) = text(&field(&function, "arguments")) else { return Ok(call) };
        let read = if arguments.trim().is_empty() { Ok(empty()) } else { serde_json::from_str(&arguments) };
        let read: TemplateValue = read.map_err(|error| {
            let path = format!("{path}.function.arguments");
            invalid(path.clone(), format!("`{path}` is no JSON: {error}"))
        })?;
        let function = with(&function, [("arguments", Some(read))]);
        Ok(with(&call, [("function", Some(function))]))
    };
    list(calls, path)?
        .into_iter()
        .enumerate()
        .map(call)
        .collect::<Result<Vec<_>, _>>()
        .map(TemplateValue::from)
}

fn empty() -> TemplateValue {
    TemplateValue::from_pairs(std::iter::empty::<(String, TemplateValue)>())
}

/// The object with these fields replaced, in the order that it had; fields that it has not come last.
fn with<const N: usize>(
    object: &TemplateValue,
    new: [(&'static str, Option<TemplateValue>); N],
) -> TemplateValue {
    let mut pairs: Vec<(TemplateValue, TemplateValue)> = Vec::new();
    for key in object.try_iter().into_iter().flatten() {
        let replaced = new.iter().find(|(name, _)| key.as_str() == Some(name));
        let value = match replaced.and_then(|(_, value)| value.clone()) {
            Some(value) => value,
            None => object.get_item(&key).unwrap_or_default(),
        };
        pairs.push((key, value));
    }
    TemplateValue::from_pairs(pairs)
}

/// A field of an object; undefined where it has none.
fn field(object: &TemplateValue, name: &str) -> TemplateValue {
    object.get_attr(name).unwrap_or_default()
}

fn text(value: &TemplateValue) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn list(value: &TemplateValue, path: &str) -> Result<Vec<TemplateValue>, ApiError> {
    match value.kind() {
        TemplateKind::Seq => Ok(value.try_iter().into_iter().flatten().collect()),
        _ => Err(must_be(path.to_owned(), "a list", value)),
    }
}

fn must_be(path: String, expected: &str, found: &TemplateValue) -> ApiError {
    let found = match found.kind() {
        TemplateKind::Undefined => "nothing",
        TemplateKind::None => "null",
        TemplateKind::Bool => "a boolean",
        TemplateKind::Number => "a number",
        TemplateKind::String => "a string",
        TemplateKind::Seq => "a list",
        TemplateKind::Map => "an object",
        _ => "something else",
    };
    invalid(path.clone(), format!("`{path}` must be {expected}; found {found}"))
}
