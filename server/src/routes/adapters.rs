//! The fleet's API: what there is, and, with an admin key, changes of it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use polylora_adapters::{
    AdapterName, Change, Event, Fleet, FleetError, Listed, Selector, Version, VersionId,
};
use serde_json::{Value, json};

use super::adapter_probe::{MayRecord, probe};
use crate::admin::{Actor, Admin};
use crate::api_doc::FLEET;
use crate::state::AppState;
use crate::wire::adapter_changes::{AbBody, PinBody, RegisterBody, Registration, VersionBody};
use crate::wire::adapter_entry::{
    AdapterEntries, AdapterEntry, AdapterHealth, AdapterMetadata, DeletedAdapters,
};
use crate::wire::body::JsonBody;
use crate::wire::error::ApiError;

/// The list of adapters.
pub const REGISTRY: &str = "/api/adapters/registry";
/// Where versions are registered.
pub const REGISTER: &str = "/api/adapters/register";

/// The routes of the fleet.
pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route(REGISTRY, get(registry))
        .route(REGISTER, post(register))
        .route("/api/adapters/{name}", delete(remove))
        .route("/api/adapters/{name}/metadata", get(metadata))
        .route("/api/adapters/{name}/versions", get(versions))
        .route("/api/adapters/{name}/health", get(health))
        .route("/api/adapters/{name}/promote", post(promote))
        .route("/api/adapters/{name}/rollback", post(rollback))
        .route("/api/adapters/{name}/ab", post(ab).delete(end_ab))
        .route("/api/adapters/{name}/pin", post(pin))
        .route("/api/adapters/{name}/retire", post(retire))
}

type Named = Result<Path<String>, PathRejection>;
type Answer = Result<Response, ApiError>;
type Asked = Result<Query<HashMap<String, String>>, QueryRejection>;

/// All adapters: one entry a name, or with `versions=all` each version.
#[utoipa::path(get, path = "/api/adapters/registry", tag = FLEET,
    params(("versions" = inline(Option<String>), Query, description = "`all` for every version of every name.")),
    responses((status = 200, description = "The adapters", body = AdapterEntries)))]
pub(crate) async fn registry(State(state): State<Arc<AppState>>, query: Asked) -> Answer {
    let fleet = state.fleet().cloned();
    let listed = blocking(move || fleet.map(|fleet| fleet.list()).unwrap_or_default()).await?;
    let all = parameters(query)?.get("versions").is_some_and(|versions| versions == "all");
    Ok(Json(if all { AdapterEntries::new(listed) } else { AdapterEntries::one_a_name(listed) })
        .into_response())
}

/// One version, and the others of its name. The name may be `name@version`, or a version's number.
#[utoipa::path(get, path = "/api/adapters/{name}/metadata", tag = FLEET,
    params(("name" = inline(String), Path, description = "Name, `name@version`, or number of a version.")),
    responses((status = 200, description = "The version", body = AdapterMetadata)))]
pub(crate) async fn metadata(State(state): State<Arc<AppState>>, name: Named) -> Answer {
    let (fleet, name) = (fleet(&state)?, path_name(name)?);
    let (lead, versions) = blocking(move || found(&fleet, &name)).await??;
    Ok(Json(AdapterMetadata::new(lead, versions)).into_response())
}

/// All versions of a name, oldest first.
#[utoipa::path(get, path = "/api/adapters/{name}/versions", tag = FLEET,
    params(("name" = inline(String), Path, description = "Name.")),
    responses((status = 200, description = "The versions", body = AdapterEntries)))]
pub(crate) async fn versions(State(state): State<Arc<AppState>>, name: Named) -> Answer {
    let (fleet, name) = (fleet(&state)?, path_name(name)?);
    let (_, versions) = blocking(move || found(&fleet, &name)).await??;
    Ok(Json(AdapterEntries::new(versions)).into_response())
}

/// Whether a version could answer, and answers as it did when it was registered.
#[utoipa::path(get, path = "/api/adapters/{name}/health", tag = FLEET,
    params(("name" = inline(String), Path, description = "Name, `name@version`, or number of a version.")),
    responses((status = 200, description = "What was checked", body = AdapterHealth)))]
pub(crate) async fn health(State(state): State<Arc<AppState>>, name: Named) -> Answer {
    let (fleet, name) = (fleet(&state)?, path_name(name)?);
    let of = Arc::clone(&fleet);
    let (version, mut report) = blocking(move || {
        let version = found(&of, &name)?.0.version;
        Ok::<_, ApiError>((Arc::clone(&version), of.check(&version)))
    })
    .await??;
    if report.checks.iter().all(|check| check.name == "effect" || check.is_ok != Some(false)) {
        report.checks.extend(probe(&state, &fleet, &version, MayRecord(false)).await?);
    }
    Ok(Json(AdapterHealth::from(report)).into_response())
}

/// Registers a folder, or a weighted sum of others. It is read and checked first; unless `activate` says otherwise it then
/// waits to be promoted. The same content again is the same version.
#[utoipa::path(post, path = "/api/adapters/register", tag = FLEET, request_body = RegisterBody,
    responses((status = 201, description = "The version", body = AdapterEntry)))]
pub(crate) async fn register(
    State(state): State<Arc<AppState>>,
    Admin(actor): Admin,
    JsonBody(body): JsonBody<RegisterBody>,
) -> Answer {
    let fleet = fleet(&state)?;
    let registration = body.read(state.base_names())?;
    let name = match &registration {
        Registration::Folder(folder) => folder.name.clone(),
        Registration::Virtual(made) => made.name.clone(),
    };
    state.may_be_an_adapters(&name)?;
    let deed = Deed { actor, action: "register", name };
    let version = deed.done(&state, tag, |fleet| match registration {
        Registration::Folder(folder) => fleet.register_folder(folder),
        Registration::Virtual(made) => fleet.register_virtual(made),
    });
    let version = version.await?;
    if version.probe.is_none()
        && let Err(error) = probe(&state, &fleet, &version, MayRecord(true)).await
    {
        tracing::warn!(adapter = version.tag(), error = error.message(), "the probe text was not recorded");
    }
    let entry = listed(&fleet, version.id)?;
    Ok((StatusCode::CREATED, Json(AdapterEntry::from(entry))).into_response())
}

/// Has a version answer from the next request on: the one that is named, or the candidate of the A/B test.
#[utoipa::path(post, path = "/api/adapters/{name}/promote", tag = FLEET, request_body = VersionBody,
    params(("name" = inline(String), Path, description = "Name.")),
    responses((status = 200, description = "What answers now", body = AdapterEntry)))]
pub(crate) async fn promote(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    JsonBody(body): JsonBody<VersionBody>,
) -> Answer {
    let (name, (version, expect)) = (adapter(name)?, body.read()?);
    let change = Change::Promote { name: name.clone(), version, expect };
    Deed { actor, action: "promote", name }.then_lead(&state, change).await
}

/// Has the version answer again that answered before the active one.
#[utoipa::path(post, path = "/api/adapters/{name}/rollback", tag = FLEET, request_body = VersionBody,
    params(("name" = inline(String), Path, description = "Name.")),
    responses((status = 200, description = "What answers now", body = AdapterEntry)))]
pub(crate) async fn rollback(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    JsonBody(body): JsonBody<VersionBody>,
) -> Answer {
    let (name, (version, expect)) = (adapter(name)?, body.read()?);
    if version.is_some() {
        let message = "a rollback goes to what answered before: to choose a version, promote it";
        return Err(ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_value", message).naming("version"));
    }
    let change = Change::Rollback { name: name.clone(), expect };
    Deed { actor, action: "rollback", name }.then_lead(&state, change).await
}

/// Has another version answer for a share of the clients, each always on the same side.
#[utoipa::path(post, path = "/api/adapters/{name}/ab", tag = FLEET, request_body = AbBody,
    params(("name" = inline(String), Path, description = "Name.")),
    responses((status = 200, description = "The candidate", body = AdapterEntry)))]
pub(crate) async fn ab(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    JsonBody(body): JsonBody<AbBody>,
) -> Answer {
    let (name, (candidate, share, expect)) = (adapter(name)?, body.read()?);
    let change = Change::Split { name: name.clone(), candidate: candidate.clone(), share, expect };
    Deed { actor, action: "ab", name: name.clone() }.change(&state, change).await?;
    let fleet = fleet(&state)?;
    let version = fleet.version(name.as_str(), Some(&candidate)).ok_or_else(|| not_found(name.as_str()))?;
    Ok(Json(AdapterEntry::from(listed(&fleet, version.id)?)).into_response())
}

/// Ends an A/B test: what is active answers all.
#[utoipa::path(delete, path = "/api/adapters/{name}/ab", tag = FLEET,
    params(("name" = inline(String), Path, description = "Name."),
           ("expected_digest" = inline(Option<String>), Query, description = "Digest that must be active.")),
    responses((status = 200, description = "What answers now", body = AdapterEntry)))]
pub(crate) async fn end_ab(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    query: Asked,
) -> Answer {
    let (name, (_, expect)) = (adapter(name)?, of_query(query)?.read()?);
    let change = Change::EndSplit { name: name.clone(), expect };
    Deed { actor, action: "end_ab", name }.then_lead(&state, change).await
}

/// Keeps what is active in host memory, or no longer.
#[utoipa::path(post, path = "/api/adapters/{name}/pin", tag = FLEET, request_body = PinBody,
    params(("name" = inline(String), Path, description = "Name.")),
    responses((status = 200, description = "What is active", body = AdapterEntry)))]
pub(crate) async fn pin(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    JsonBody(body): JsonBody<PinBody>,
) -> Answer {
    let name = adapter(name)?;
    let change = Change::Pin { name: name.clone(), is_pinned: body.pinned.unwrap_or(true) };
    Deed { actor, action: "pin", name }.then_lead(&state, change).await
}

/// Takes a version, or the whole name, out of service.
#[utoipa::path(post, path = "/api/adapters/{name}/retire", tag = FLEET, request_body = VersionBody,
    params(("name" = inline(String), Path, description = "Name.")),
    responses((status = 200, description = "All versions of the name", body = AdapterEntries)))]
pub(crate) async fn retire(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    JsonBody(body): JsonBody<VersionBody>,
) -> Answer {
    let (name, (version, expect)) = (adapter(name)?, body.read()?);
    let change = Change::Retire { name: name.clone(), version, expect };
    Deed { actor, action: "retire", name: name.clone() }.change(&state, change).await?;
    let fleet = fleet(&state)?;
    let versions = blocking(move || fleet.list_of(name.as_str())).await?;
    Ok(Json(AdapterEntries::new(versions)).into_response())
}

/// Deletes a version, or the whole name. Its number is never given again, and its folder not picked up again unless its files
/// change or it is registered anew.
#[utoipa::path(delete, path = "/api/adapters/{name}", tag = FLEET,
    params(("name" = inline(String), Path, description = "Name."),
           ("version" = inline(Option<String>), Query, description = "One version of it."),
           ("expected_digest" = inline(Option<String>), Query, description = "Digest that must be active.")),
    responses((status = 200, description = "What was deleted", body = DeletedAdapters)))]
pub(crate) async fn remove(
    State(state): State<Arc<AppState>>,
    name: Named,
    Admin(actor): Admin,
    query: Asked,
) -> Answer {
    let (name, (version, expect)) = (adapter(name)?, of_query(query)?.read()?);
    let fleet = fleet(&state)?;
    let before = fleet.list_of(name.as_str());
    let change = Change::Delete { name: name.clone(), version, is_buried: true, expect };
    Deed { actor, action: "delete", name }.change(&state, change).await?;
    let gone = before.into_iter().filter(|listed| fleet.version_by_id(listed.version.id).is_none());
    Ok(Json(DeletedAdapters::new(gone.collect())).into_response())
}

/// The fleet, where there is one.
///
/// # Errors
/// 404 where adapters are not the server's to manage.
pub(super) fn fleet(state: &AppState) -> Result<Arc<Fleet>, ApiError> {
    let none =
        || ApiError::invalid(StatusCode::NOT_FOUND, "adapter_not_found", "this server manages no adapters");
    state.fleet().cloned().ok_or_else(none)
}

/// Runs what reads files on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(error.to_string()))
}

/// What somebody does to an adapter.
pub(super) struct Deed {
    /// Who.
    pub(super) actor: Actor,
    /// What, in a word.
    pub(super) action: &'static str,
    /// To which.
    pub(super) name: AdapterName,
}

impl Deed {
    /// Does it, on a thread that may block, and notes it there with what `told` says of the outcome: the client may be gone
    /// by then.
    pub(super) async fn done<T: Send + 'static>(
        self,
        state: &Arc<AppState>,
        told: fn(&T) -> Value,
        work: impl FnOnce(&Fleet) -> Result<T, FleetError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (fleet, state) = (fleet(state)?, Arc::clone(state));
        let outcome = blocking(move || {
            let outcome = work(&fleet).map_err(ApiError::from);
            let Self { actor, action, name } = self;
            state.admin().audit().note(&actor, action, name.as_str(), outcome.as_ref().map(told));
            outcome
        });
        outcome.await?
    }

    /// Makes a change.
    pub(super) async fn change(self, state: &Arc<AppState>, change: Change) -> Result<(), ApiError> {
        let told = |events: &Vec<Event>| json!({"events": events.len()});
        self.done(state, told, |fleet| fleet.operate(change)).await.map(drop)
    }

    /// Makes a change and answers with the version that leads after it.
    async fn then_lead(self, state: &Arc<AppState>, change: Change) -> Answer {
        let name = self.name.clone();
        self.change(state, change).await?;
        let fleet = fleet(state)?;
        let (lead, _) = blocking(move || found(&fleet, name.as_str())).await??;
        Ok(Json(AdapterEntry::from(lead)).into_response())
    }
}

/// What the record of changes says of a version.
pub(super) fn tag(version: &Arc<Version>) -> Value {
    json!({"tag": version.tag()})
}

/// The version that a path means, and all of its name: a name goes before a name with a version, that before a number.
fn found(fleet: &Fleet, asked: &str) -> Result<(Listed, Vec<Listed>), ApiError> {
    let registry = fleet.registry();
    let by_number = || registry.version(VersionId(asked.parse().ok()?));
    let (name, version) = match (registry.lead(asked), Selector::split(asked)) {
        (Some(lead), _) => (asked, Some(lead)),
        (None, Some((name, selector))) => (name, registry.select(name, &selector)),
        (None, None) => (asked, by_number()),
    };
    let version = version.ok_or_else(|| not_found(name))?;
    Ok((listed(fleet, version.id)?, fleet.list_of(version.name.as_str())))
}

fn listed(fleet: &Fleet, id: VersionId) -> Result<Listed, ApiError> {
    fleet.list_version(id).ok_or_else(|| not_found(&id.to_string()))
}

fn path_name(name: Named) -> Result<String, ApiError> {
    let Path(name) = name.map_err(|rejection| ApiError::invalid_path(rejection.body_text(), "name"))?;
    Ok(name)
}

fn adapter(name: Named) -> Result<AdapterName, ApiError> {
    let name = path_name(name)?;
    AdapterName::new(&name).map_err(|_| not_found(&name))
}

fn parameters(query: Asked) -> Result<HashMap<String, String>, ApiError> {
    let Query(parameters) = query.map_err(|rejection| {
        ApiError::invalid(StatusCode::BAD_REQUEST, "invalid_query", rejection.body_text())
    })?;
    Ok(parameters)
}

fn of_query(query: Asked) -> Result<VersionBody, ApiError> {
    let mut query = parameters(query)?;
    Ok(VersionBody::new(query.remove("version"), query.remove("expected_digest")))
}

fn not_found(name: &str) -> ApiError {
    let message = format!("no adapter `{name:.100}` is registered; GET {REGISTRY} lists those that are");
    ApiError::invalid(StatusCode::NOT_FOUND, "adapter_not_found", message).naming("name")
}
