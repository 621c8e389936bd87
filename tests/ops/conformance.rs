//! Every op x shapes x instruction sets x thread counts against the f64 reference.

crate::op_tests!(crate::common::run_table);
