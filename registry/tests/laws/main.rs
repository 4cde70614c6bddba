//! Laws of the registry and its record.

mod answers;
mod changes;
mod damage;
mod histories;
mod json;
mod makers;
mod oracle;
mod record;
mod refusals;
mod threads;
