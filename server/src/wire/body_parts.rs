//! A JSON body whose fields are described in several structs, each of which reads its own and passes over the others'. Flattened
//! into one struct they would lose the place of what is wrong.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::body::{json_bytes, parse_object};
use super::error::ApiError;
use crate::state::AppState;

/// Extracts a JSON object as each of the types of a tuple; refuses with an OpenAI error object.
#[derive(Clone, Debug)]
pub struct JsonParts<T>(pub T);

/// Extracts a body that says of itself that it is JSON, for those who look at it before they know what it is.
#[derive(Clone, Debug)]
pub struct JsonBytes(pub Bytes);

impl FromRequest<Arc<AppState>> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        json_bytes(request, state).await.map(Self)
    }
}

impl<A: DeserializeOwned, B: DeserializeOwned> FromRequest<Arc<AppState>> for JsonParts<(A, B)> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let bytes = json_bytes(request, state).await?;
        Ok(Self((parse_object(&bytes)?, parse_object(&bytes)?)))
    }
}

impl<A, B, C> FromRequest<Arc<AppState>> for JsonParts<(A, B, C)>
where
    A: DeserializeOwned,
    B: DeserializeOwned,
    C: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let bytes = json_bytes(request, state).await?;
        Ok(Self((parse_object(&bytes)?, parse_object(&bytes)?, parse_object(&bytes)?)))
    }
}
