//! The probe text through a version: whether it still answers as it did when it was registered.

use std::sync::Arc;

use polylora_adapters::{Fleet, HealthCheck, Version};
use polylora_engine::{EmbedInput, EmbedRequest};

use super::adapters::blocking;
use crate::state::AppState;
use crate::wire::error::ApiError;

/// What is embedded to see whether a version still answers as it did.
const PROBE_TEXT: &str = "The quick brown fox jumps over the lazy dog.";

/// Whether a first probe becomes what later ones are compared with.
pub(super) struct MayRecord(pub(super) bool);

/// Embeds the probe text, where the version is for the model that embeds, and compares it with what was recorded.
pub(super) async fn probe(
    state: &AppState,
    fleet: &Arc<Fleet>,
    version: &Arc<Version>,
    MayRecord(may_record): MayRecord,
) -> Result<Option<HealthCheck>, ApiError> {
    if version.probe.is_none() && !may_record {
        return Ok(None);
    }
    // What is for the model that generates embeds nothing.
    let base = version.base.digest.to_hex();
    let Some(embedder) = state.embedder().filter(|embedder| embedder.service().model().digest == base) else {
        return Ok(None);
    };
    let request = EmbedRequest {
        inputs: vec![EmbedInput::Text(PROBE_TEXT.to_owned())],
        adapter: Some(format!("{}@{}", version.name, version.id)),
        truncate: true,
        ..EmbedRequest::default()
    };
    let reply = embedder.service().embed(request).await.map_err(ApiError::from)?;
    // The base may have answered in its place.
    let is_its_own = reply.served_by.as_ref().is_some_and(|served_by| served_by.id == version.id);
    let embedding = reply.embeddings.into_iter().next().filter(|_| is_its_own);
    let Some(embedding) = embedding else { return Ok(None) };
    let (of, id) = (Arc::clone(fleet), version.id);
    Ok(Some(blocking(move || of.check_probe(id, &embedding)).await?.map_err(ApiError::from)?))
}
