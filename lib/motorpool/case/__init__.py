"""Reading a case safely, and making a sample one."""
