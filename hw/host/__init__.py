"""From the pins to messages: AXI-Lite, UART, frames, channel."""
