//! Why a change of the fleet did not happen, as a status and words.

use axum::http::StatusCode;
use polylora_adapters::{ChangeError, FleetError, LoadError, RegistryError};

use super::error::ApiError;

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let (status, code) = match &error {
            FleetError::Store(RegistryError::Refused(refused)) => of_change(refused),
            FleetError::Store(_) => (500, "state_not_written"),
            FleetError::Path(_) => (400, "invalid_path"),
            FleetError::Refused { .. } | FleetError::Load(LoadError::Refused { .. }) => {
                (400, "adapter_invalid")
            }
            FleetError::Load(LoadError::Unknown { .. }) | FleetError::UnknownPart { .. } => {
                (404, "adapter_not_found")
            }
            FleetError::Load(LoadError::Store { .. }) => (500, "state_not_written"),
            FleetError::Compose(_) => (400, "invalid_virtual_adapter"),
        };
        let mut message = error.to_string();
        if let (500, Some(source)) = (status, std::error::Error::source(&error)) {
            message = format!("{message}: {source}");
        }
        match status {
            500 => Self::server(StatusCode::INTERNAL_SERVER_ERROR, code, message),
            status => {
                let status = StatusCode::from_u16(status).expect("the statuses above are well-formed");
                Self::invalid(status, code, message)
            }
        }
    }
}

fn of_change(error: &ChangeError) -> (u16, &'static str) {
    match error {
        ChangeError::UnknownName { .. } => (404, "adapter_not_found"),
        ChangeError::UnknownVersion { .. } | ChangeError::UnknownId { .. } => (404, "version_not_found"),
        ChangeError::Conflict { .. } => (409, "conflict"),
        ChangeError::LabelTaken { .. } => (409, "label_taken"),
        ChangeError::ContentTaken { .. } => (409, "content_taken"),
        ChangeError::Inactive { .. } => (409, "inactive"),
        ChangeError::Unstorable { .. } => (400, "invalid_value"),
        ChangeError::NothingBefore { .. } => (409, "nothing_before"),
        ChangeError::NoSplit { .. } => (409, "no_ab_test"),
        ChangeError::NotServable { .. } => (409, "retired"),
        ChangeError::InService { .. } => (409, "in_service"),
        ChangeError::PartOf { .. } => (409, "part_of_virtual"),
        ChangeError::Full { .. } => (409, "registry_full"),
    }
}
