//! `tojson` as transformers gives it to chat templates: Python's `json.dumps`, to the character.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting; JSON that came over HTTP is at most 128 deep.
const DEEPEST: usize = 256;

/// How the text is laid out.
struct JsonForm {
    ensure_ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if indent.kind() == ValueKind::Number => {
            Some(" ".repeat(indent.as_usize().unwrap_or(0).min(64)))
        }
        Some(indent) if indent.kind() == ValueKind::String => Some(indent.to_string()),
        _ => None,
    };
    let separators = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() && !pair.is_undefined() => {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            let [items, key] = pair.as_slice() else {
                return Err(invalid("tojson: separators are two strings"));
            };
            Some((items.to_string(), key.to_string()))
        }
        _ => None,
    };
    let between = if indent.is_some() { "," } else { ", " };
    let (between_items, after_key) = separators.unwrap_or_else(|| (between.into(), ": ".into()));
    let flag = |name| options.get::<Option<bool>>(name).map(|flag| flag.unwrap_or(false));
    let (ensure_ascii, sort_keys) = (flag("ensure_ascii")?, flag("sort_keys")?);
    options.assert_all_used()?;
    let mut out = String::new();
    JsonForm { ensure_ascii, indent, between_items, after_key, sort_keys }.write(value, 0, &mut out)?;
    Ok(out)
}

impl JsonForm {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(invalid("tojson: nested too deep"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth, out)?,
            ValueKind::Map => self.map(value, depth, out)?,
            kind => return Err(invalid(format!("tojson: an {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(&self, list: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        out.push('[');
        let mut empty = true;
        for item in list.try_iter()? {
            self.begin(&mut empty, depth, out);
            self.write(&item, depth + 1, out)?;
        }
        self.end(empty, depth, out);
        out.push(']');
        Ok(())
    }

    fn map(&self, map: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        out.push('{');
        let mut empty = true;
        for key in keys {
            self.begin(&mut empty, depth, out);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default(), out),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    out.push('"');
                    self.write(&key, depth + 1, out)?;
                    out.push('"');
                }
                kind => return Err(invalid(format!("tojson: an {kind} is no key"))),
            }
            out.push_str(&self.after_key);
            self.write(&map.get_item(&key)?, depth + 1, out)?;
        }
        self.end(empty, depth, out);
        out.push('}');
        Ok(())
    }

    /// What stands before an item.
    fn begin(&self, empty: &mut bool, depth: usize, out: &mut String) {
        if !*empty {
            out.push_str(&self.between_items);
        }
        *empty = false;
        self.new_line(depth + 1, out);
    }

    /// What stands after the last item.
    fn end(&self, empty: bool, depth: usize, out: &mut String) {
        if !empty {
            self.new_line(depth, out);
        }
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' '
                    || (self.ensure_ascii && !c.is_ascii())
                    || (self.ensure_ascii && c == '\u{7f}') =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// As Python writes integers and floats.
fn number(value: &Value) -> String {
    let float = match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float,
        _ => return value.to_string(),
    };
    if float.is_nan() {
        return "NaN".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    // Rust's shortest form changes to exponents where Python's does, and only writes them otherwise.
    let text = format!("{float:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail.into())
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    use super::*;

    fn rendered(expression: &str) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.add_filter("tojson", to_json);
        environment.render_str(&format!("{{{{ {expression} }}}}"), Value::from(()))
    }

    // The expected texts are those of Python 3.11's `json.dumps(..., ensure_ascii=False, ...)`.
    #[test]
    fn values_are_written_as_python_writes_them() {
        for (expression, expected) in [
            (r#"{"b": [1, 2.0, true, none], "a": {}} | tojson"#, r#"{"b": [1, 2.0, true, null], "a": {}}"#),
            (r#"{"b": 1, "a": 2} | tojson(sort_keys=true)"#, r#"{"a": 2, "b": 1}"#),
            (r#"["<é日>&'", "\"\\\n\t"] | tojson"#, r#"["<é日>&'", "\"\\\n\t"]"#),
            (r#"["é😀"] | tojson(ensure_ascii=true)"#, r#"["\u00e9\ud83d\ude00"]"#),
            (
                r#"{"a": [1, {"b": 2}], "c": []} | tojson(indent=2)"#,
                "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": []\n}",
            ),
            (r#"[1, 2] | tojson(separators=(",", ":"))"#, "[1,2]"),
            (r#"{1: 2, none: 3, false: 4} | tojson"#, r#"{"1": 2, "null": 3, "false": 4}"#),
            // Python's 1 and True are one key.
            (r#"{1: 2, none: 3, true: 4} | tojson"#, r#"{"1": 4, "null": 3}"#),
            ("[1e20, 1e-5, 0.1, -0.0] | tojson", "[1e+20, 1e-05, 0.1, -0.0]"),
            (r#""x" | tojson(indent=none)"#, r#""x""#),
        ] {
            assert_eq!(rendered(expression).expect("renders"), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for expression in ["[undefined_name] | tojson", "1 | tojson(unknown=1)", "1 | tojson(separators=[1])"]
        {
            assert!(rendered(expression).is_err(), "{expression}");
        }
    }
}
