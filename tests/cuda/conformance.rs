//! Every op x shapes against the f64 reference, at the tolerances of the CPU; and in f16 and bf16.

crate::op_tests!(crate::run_table);
