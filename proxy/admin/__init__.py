"""The admin API and the console: what people and programs see and do at a running edge."""
