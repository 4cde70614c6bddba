//! What the wire formats' documentation asks for; nothing is documented here.

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::wire::fields::{Dimensions, Direction, EncodingFormat, TokenLimit};
use crate::wire::input::Inputs;

/// Stands for the name of a prompt of the model.
pub struct PromptName;
/// Stands for the name of a model or adapter.
pub struct ModelName;

macro_rules! without_schema {
    ($($type:ty),*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                RefOr::default()
            }
        }
        impl ToSchema for $type {}
    )*};
}

without_schema!(PromptName, ModelName, Inputs, Dimensions, Direction, EncodingFormat, TokenLimit);
