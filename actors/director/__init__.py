"""The director: brings a campaign up, moves it through its phases, supervises and resumes it."""
