//! The bytes of a file, and of the one beside it that has the parameters of large models.

use super::export::model_of;
use super::options::Options;
use super::proto::{DataLocation, ModelProto, StringStringEntryProto};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::io::file::write_bytes_atomic;
use crate::io::hashing::Sha256;
use crate::memory;
use crate::nn::Model;
use prost::Message;
use std::path::Path;

/// The most bytes of one protocol buffer.
const MOST: usize = (1 << 31) - 1;
/// Below so many bytes a tensor stays in the file.
const SMALL: usize = 1024;
/// Where tensors begin in the file beside it, so that it can be mapped to memory.
const ALIGNMENT: usize = 4096;

/// The bytes of a whole file.
pub fn to_bytes(model: &Model, options: &Options, stop: Stop) -> Result<Vec<u8>> {
    let proto = model_of(model, options, stop)?;
    if options.external || proto.encoded_len() > MOST {
        let what = if options.external {
            "parameters were asked for in a file beside it".to_owned()
        } else {
            format!("it has {} bytes, and one has {MOST} at most", proto.encoded_len())
        };
        return Err(Error::unsupported(format!("an ONNX model in memory is one protocol buffer: {what}; write it to a path")));
    }
    encoded(&proto)
}

fn encoded(proto: &ModelProto) -> Result<Vec<u8>> {
    let mut bytes = memory::with_capacity(proto.encoded_len(), "an ONNX file")?;
    proto.encode(&mut bytes).map_err(|e| Error::internal(e.to_string()))?;
    Ok(bytes)
}

/// Writes a file, and, where it is asked for or must be, the parameters to one beside it, whose name follows from what is in it: an older model at this path
/// keeps its own until it is replaced itself.
pub fn save(model: &Model, options: &Options, path: &Path, stop: Stop) -> Result<()> {
    let mut proto = model_of(model, options, stop)?;
    if options.external || proto.encoded_len() > MOST {
        let data = taken_out(&mut proto)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::invalid(format!("{}: not the name of a file", path.display())))?;
        let mut hash = Sha256::default();
        hash.update(&data);
        let beside = format!("{}-{}.onnx.data", name.strip_suffix(".onnx").unwrap_or(name), &hash.digest()[..16]);
        let tensors = proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        for tensor in tensors.filter(|tensor| tensor.data_location == DataLocation::External as i32) {
            tensor.external_data.insert(0, StringStringEntryProto { key: "location".to_owned(), value: beside.clone() });
        }
        stop.check()?;
        write_bytes_atomic(&path.with_file_name(&beside), &data)?;
    }
    stop.check()?;
    write_bytes_atomic(path, &encoded(&proto)?)
}

/// The bytes of all tensors that are not small, which the messages then only name the places of.
fn taken_out(proto: &mut ModelProto) -> Result<Vec<u8>> {
    let mut data: Vec<u8> = vec![];
    for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer).filter(|tensor| tensor.raw_data.len() >= SMALL) {
        let (end, at) = (data.len(), data.len().next_multiple_of(ALIGNMENT));
        memory::reserve(&mut data, at - end + tensor.raw_data.len(), "an ONNX file")?;
        data.resize(at, 0);
        data.extend_from_slice(&tensor.raw_data);
        let entry = |key: &str, value: usize| StringStringEntryProto { key: key.to_owned(), value: value.to_string() };
        tensor.external_data = vec![entry("offset", at), entry("length", tensor.raw_data.len())];
        tensor.data_location = DataLocation::External as i32;
        tensor.raw_data = vec![];
    }
    Ok(data)
}
