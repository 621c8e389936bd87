//! The families of networks that this library knows: the only list of them.

use super::network::{Family, Network};
use super::scope::Parameter;
use super::unet;
use crate::error::{Error, Result};
use crate::io::json::{Fields, describe};
use crate::io::{KnownNetworks, json_writer};
use serde_json::{Map, Value};
use std::sync::Arc;

/// All families. A config.json without a class is taken for the first's.
const FAMILIES: &[&Family] = &[
    &unet::FAMILY,
    #[cfg(feature = "mixer")]
    &super::mixer::FAMILY,
];

/// A network, and its parameters, which are counted before weights are read.
#[derive(Debug)]
pub struct Opened {
    /// The network.
    pub network: Arc<dyn Network>,
    /// In the order in which the forward pass meets them.
    pub parameters: Vec<Parameter>,
}

/// What opening files needs to know of networks.
pub const NETWORKS: KnownNetworks<Opened> = KnownNetworks { parse: opened, is_network };

fn opened(text: &str, file: &str) -> Result<Opened> {
    let network = parse(text, file)?;
    let parameters = network.parameters().map_err(|e| e.context(file))?;
    Ok(Opened { network, parameters })
}

/// Parses and checks the text of a config.json; `file` is its name in errors.
pub fn parse(text: &str, file: &str) -> Result<Arc<dyn Network>> {
    let mut fields = Fields::parse(text, file)?;
    fields.take("_diffusers_version");
    let class = fields.take("_class_name");
    let family = match &class {
        None | Some(Value::Null) => Some(&FAMILIES[0]),
        Some(class) => FAMILIES.iter().find(|f| class.as_str() == Some(f.class)),
    };
    let known = || FAMILIES.iter().map(|f| format!("{:?}", f.class)).collect::<Vec<_>>().join(" or ");
    let found = || describe(class.as_ref().unwrap_or(&Value::Null));
    let family = family.ok_or_else(|| Error::unsupported(format!("{file}: model class {}, expected {}", found(), known())))?;
    (family.read)(fields)
}

/// Whether a configuration is a network's, and not an encoder's or that of another part of a pipeline. Classes of networks that cannot be opened count, for
/// their error says so.
fn is_network(config: &Value) -> bool {
    match config.get("_class_name") {
        Some(class) => class.as_str().is_some_and(|class| class.starts_with("UNet") || FAMILIES.iter().any(|f| f.class == class)),
        None => FAMILIES.iter().any(|f| (f.recognises)(config)),
    }
}

/// A network like another but for the keys of `patch`, which is of the same family.
pub fn patched(network: &dyn Network, patch: &Map<String, Value>) -> Result<Arc<dyn Network>> {
    let mut settings = network.settings();
    if let Some(key) = patch.keys().find(|key| key.starts_with('_') || !settings.contains_key(*key)) {
        let known = settings.keys().filter(|k| !k.starts_with('_')).cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::invalid(format!("config_patch: a {} has no key {key:?}; it has {known}", network.family().class)));
    }
    patch.iter().for_each(|(key, value)| drop(settings.insert(key.clone(), value.clone())));
    network.adapt(&mut settings, patch)?;
    parse(&json_writer::to_text(&settings, &Map::new(), "config_patch")?, "config_patch")
}
