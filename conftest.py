pytest_plugins = ["harness.plugin", "harness.short_options"]
