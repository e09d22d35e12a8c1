//! depmod's indexes for the kept modules, text and binary.
